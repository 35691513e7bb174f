"""Findings: the fine part of the network over the brain, and labels on the native grid.

Slices are never resampled. In plane the grid is resampled only where its voxel lies outside
0.6 to 1.0 mm; what comes back onto the native grid are probabilities, never labels.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deepmir.config import Config, SegmentConfig
from deepmir.errors import ConfigError
from deepmir.geometry import Grid
from deepmir.labels import Finding
from deepmir.model.predict import (
    WINDOW_MULTIPLE,
    Network,
    bounding_box,
    open_network,
    predict_windows,
)
from deepmir.model.weights import Weights
from deepmir.preprocessing.resample import along_axis, interpolate_axis
from deepmir.preprocessing.run import Prepared
from deepmir.volume import BoolMap, FloatMap

IN_PLANE_MM = (0.6, 1.0)
"""Voxel sizes in plane that the findings part takes as they are."""
_THICKEST_BY = 1.05  # an axis is the slice axis only where its voxels are clearly longer


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """Findings of one person on the reference scan's RAS+ grid."""

    findings: npt.NDArray[np.uint8]  # (I, J, K), values of labels.Finding, 0 elsewhere
    probabilities: npt.NDArray[np.float16]  # (3, I, J, K): CMB, IRON, CALCIFICATION
    thresholds: dict[Finding, float]  # that made labels of probabilities


@dataclass(frozen=True, slots=True)
class FindingsGrid:
    """How a native grid becomes that of the findings part."""

    order: tuple[int, int, int]  # native axes in the order of the network's (I, J, K)
    spacing_mm: tuple[float, float, float]  # of the permuted native grid
    target_mm: tuple[float, float, float]  # of the findings part's grid; K as it was


def segment_findings(
    prepared: Prepared,
    weights: Weights,
    config: Config,
    *,
    progress: Callable[[str, float], None] | None = None,
) -> Segmentation | None:
    """Find microbleeds, iron deposits and calcifications inside the brain mask.

    Without a Chimap the sign of χ is not known, so that a calcification cannot be told from a
    microbleed: what the network gave to it is added to CMB.

    Returns
    -------
    Segmentation, or None where there is neither SWI nor Chimap: nothing can be told then.

    Raises
    ------
    WeightsError
        If the network cannot be run.
    ConfigError
        If a threshold is for an unknown finding or out of range.
    """
    _, has_swi, has_chimap = prepared.present
    if not (has_swi or has_chimap):
        return None
    thresholds = resolve_thresholds(weights, config.segment)
    plan = plan_grid(prepared.grid)
    margin = _in_native_order(WINDOW_MULTIPLE, plan)
    box = bounding_box(prepared.brain_mask, margin=margin)
    network = open_network(weights, "findings", config.segment)

    def windows_done(share: float) -> None:
        if progress is not None:
            progress("segment", share)

    found = _probabilities(
        prepared,
        box,
        network=network,
        plan=plan,
        window=weights.manifest.inputs.findings_window,
        overlap=config.segment.overlap,
        progress=windows_done,
    )
    mask = prepared.brain_mask[box]
    if not has_chimap:
        found = without_calcification(found)
    labels = label_findings(found, thresholds, mask)
    return _in_full(labels, found * mask, box=box, prepared=prepared, thresholds=thresholds)
