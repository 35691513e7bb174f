"""Tells cerebral microbleeds from iron deposits, calcifications and veins on SWI, QSM and T2w.

>>> import deepmir
>>> sorted(deepmir.__all__) == deepmir.__all__
True

Names load what they need when they are first used, so that importing the package is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepmir.config import Config, read_config
    from deepmir.errors import (
        ConfigError,
        DeepmirError,
        GeometryError,
        InputError,
        MissingPartError,
        OutputError,
        TrainingError,
        UnitError,
        WeightsError,
    )
    from deepmir.io.nifti import read_volume
    from deepmir.io.raw import RawScan
    from deepmir.labels import Finding
    from deepmir.lesions import Lesion
    from deepmir.pipeline import measure, segment
    from deepmir.reconstruction.person import Reconstruction, reconstruct, write_reconstruction
    from deepmir.result import SubjectResult, write_result
    from deepmir.scoring import EvaluationSettings, EvaluationSources, evaluate
    from deepmir.simulation.cohort import simulate_cohort as simulate
    from deepmir.volume import Modality, Scans, Volume

    __version__: str

__all__ = [
    "Config",
    "ConfigError",
    "DeepmirError",
    "EvaluationSettings",
    "EvaluationSources",
    "Finding",
    "GeometryError",
    "InputError",
    "Lesion",
    "MissingPartError",
    "Modality",
    "OutputError",
    "RawScan",
    "Reconstruction",
    "Scans",
    "SubjectResult",
    "TrainingError",
    "UnitError",
    "Volume",
    "WeightsError",
    "evaluate",
    "measure",
    "read_config",
    "read_volume",
    "reconstruct",
    "segment",
    "simulate",
    "write_reconstruction",
    "write_result",
]

_HOMES = {
    "Config": "deepmir.config",
    "ConfigError": "deepmir.errors",
    "DeepmirError": "deepmir.errors",
    "EvaluationSettings": "deepmir.scoring",
    "EvaluationSources": "deepmir.scoring",
    "Finding": "deepmir.labels",
    "GeometryError": "deepmir.errors",
    "InputError": "deepmir.errors",
    "Lesion": "deepmir.lesions",
    "MissingPartError": "deepmir.errors",
    "Modality": "deepmir.volume",
    "OutputError": "deepmir.errors",
    "RawScan": "deepmir.io.raw",
    "Reconstruction": "deepmir.reconstruction.person",
    "Scans": "deepmir.volume",
    "SubjectResult": "deepmir.result",
    "TrainingError": "deepmir.errors",
    "UnitError": "deepmir.errors",
    "Volume": "deepmir.volume",
    "WeightsError": "deepmir.errors",
    "evaluate": "deepmir.scoring",
    "measure": "deepmir.pipeline",
    "read_config": "deepmir.config",
    "read_volume": "deepmir.io.nifti",
    "reconstruct": "deepmir.reconstruction.person",
    "segment": "deepmir.pipeline",
    "simulate": "deepmir.simulation.cohort:simulate_cohort",
    "write_reconstruction": "deepmir.reconstruction.person",
    "write_result": "deepmir.result",
}
"""Where each public name lives (PEP 562): ``module`` or ``module:name there``."""


def __getattr__(name: str) -> Any:  # noqa: ANN401 - what a module holds has any type
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415 - a third of the time of --help

        return version("deepmir")
    if name not in _HOMES:
        raise AttributeError(f"module 'deepmir' has no attribute {name!r}")
    module, _, there = _HOMES[name].partition(":")
    value = getattr(import_module(module), there or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
