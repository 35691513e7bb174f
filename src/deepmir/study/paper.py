"""What the paper reports: Tables 1 and 2 of Rashid 2021, doi:10.1038/s41598-021-93427-x.

Means over the persons of its cohort (24 participants of MESA); the standard errors are 0.04 to
0.08. Its data are not public, so that these numbers cannot be repeated, only put beside ours.
"""

from dataclasses import dataclass
from typing import Literal

from deepmir.labels import Finding

Kind = Literal["single", "multi", "release"]

INPUTS: dict[str, tuple[str, ...]] = {
    "SWI": ("swi",),
    "SWI+QSM": ("swi", "Chimap"),
    "SWI+T2w": ("T2w", "swi"),
    "SWI+QSM+T2w": ("T2w", "swi", "Chimap"),
}
"""Combinations of contrasts, by the paper's name, in the order of the network's channels."""


@dataclass(frozen=True, slots=True)
class PaperResult:
    """One cell of the paper's tables."""

    sensitivity: float
    precision: float
    pearson_r: float


_TABLE: dict[str, tuple[tuple[float, float, float], ...]] = {
    # CMB single, CMB multi, iron single, iron multi: sensitivity, precision, Pearson r
    "SWI": ((0.85, 0.22, 0.96), (0.82, 0.36, 0.96), (0.81, 0.51, 0.88), (0.76, 0.70, 0.91)),
    "SWI+QSM": ((0.88, 0.40, 0.97), (0.84, 0.59, 0.99), (0.77, 0.60, 0.92), (0.75, 0.75, 0.91)),
    "SWI+T2w": ((0.84, 0.29, 0.76), (0.76, 0.43, 0.97), (0.77, 0.56, 0.85), (0.76, 0.60, 0.87)),
    "SWI+QSM+T2w": ((0.87, 0.50, 0.98), (0.89, 0.49, 0.98), (0.81, 0.62, 0.81), (0.81, 0.64, 0.90)),
}
_COLUMNS: tuple[tuple[Finding, Kind], ...] = (
    (Finding.CMB, "single"),
    (Finding.CMB, "multi"),
    (Finding.IRON, "single"),
    (Finding.IRON, "multi"),
)

MEAN_DIFFERENCE_CMB_MULTI: dict[str, float] = {
    "SWI": 0.04,
    "SWI+QSM": 0.67,
    "SWI+T2w": 0.75,
    "SWI+QSM+T2w": 0.92,
}
"""Bland-Altman mean difference of the number of microbleeds; other cells are not at hand."""


def paper_result(inputs: str, finding: Finding, kind: Kind) -> PaperResult | None:
    """Return what the paper reports; None for what it has not.

    Examples
    --------
    >>> paper_result("SWI+QSM", Finding.CMB, "multi")
    PaperResult(sensitivity=0.84, precision=0.59, pearson_r=0.99)
    """
    if (finding, kind) not in _COLUMNS:
        return None
    return PaperResult(*_TABLE[inputs][_COLUMNS.index((finding, kind))])
