"""Training: from simulated cases to the released folder of weights."""
