"""The released network: its weights, and how it is run."""
