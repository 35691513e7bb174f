"""The forward model: dipole field and signal; pure functions on arrays of any array API."""
