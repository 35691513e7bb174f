"""From raw gradient-echo magnitude and phase to SWI and a susceptibility map (QSM)."""
