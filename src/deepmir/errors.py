"""Every error deepmir raises on purpose, so that callers can catch one base class.

DeepmirError
├── GeometryError   array, affine or grid does not fit (also a ValueError)
├── InputError      a file, image or BIDS entity is missing, unreadable or not what it should be
│   └── UnitError   the unit of a susceptibility map is not ppm and cannot be told
├── OutputError     a result cannot be written, or is there already
├── ConfigError     a setting is unknown or out of range (also a ValueError)
├── WeightsError    the released network is missing, damaged or does not fit
├── TrainingError   a training run cannot go on, or its checkpoint does not fit
└── MissingPartError  an optional dependency (an extra) is not installed

Every message says what was found, what was wanted, and what to do.
"""


class DeepmirError(Exception):
    """Base class of all errors raised on purpose by deepmir."""


class GeometryError(DeepmirError, ValueError):
    """An array, affine or grid has the wrong shape, type or handedness."""


class InputError(DeepmirError):
    """A required image or sidecar is missing, unreadable or not what it should be."""


class UnitError(InputError):
    """A susceptibility map is not in ppm and its unit cannot be told."""


class OutputError(DeepmirError):
    """A result cannot be written, or is there already."""


class ConfigError(DeepmirError, ValueError):
    """A setting is unknown, or its value is out of range."""


class WeightsError(DeepmirError):
    """The network's weights are missing, damaged or do not fit this version."""


class MissingPartError(DeepmirError):
    """An optional dependency (an extra of this package) is not installed."""


class TrainingError(DeepmirError):
    """A training run cannot go on, or a checkpoint does not fit the recipe."""
