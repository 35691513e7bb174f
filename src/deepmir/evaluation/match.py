"""Which predicted lesions hit which reference lesions, under a rule that is said aloud.

Rule ``any-overlap``: a reference lesion is detected when a predicted one of the same finding
shares a voxel with it; a predicted lesion is correct when it shares a voxel with a reference.
So one prediction over two references detects both and is correct once, and two predictions on
one reference are both correct and detect it once. Sensitivity counts references, precision
counts predictions; swapping the roles swaps the two.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from deepmir.errors import ConfigError, GeometryError
from deepmir.lesions import Connectivity, label_instances
from deepmir.volume import BoolMap

MatchingRule = Literal["any-overlap"]
"""How a hit is declared; every score names its rule."""


@dataclass(frozen=True, slots=True)
class Match:
    """Hits and misses between the instances of two masks.

    Instances are numbered as :func:`~deepmir.lesions.label_instances` does.
    """

    n_reference: int
    n_prediction: int
    """Predicted lesions that are scored; ignored ones are not."""
    tp_reference: int
    """Reference lesions that are detected."""
    tp_prediction: int
    """Predicted lesions that are correct."""
    n_ignored: int
    """Predicted lesions that lie on the ignore zone only: neither true nor false."""
    pairs: tuple[tuple[int, int], ...]
    """(reference, prediction) instance numbers that hit one another, sorted."""

    @property
    def fn(self) -> int:
        """Reference lesions that are missed."""
        return self.n_reference - self.tp_reference

    @property
    def fp(self) -> int:
        """Predicted lesions that are wrong."""
        return self.n_prediction - self.tp_prediction


def match_lesions(
    prediction: BoolMap,
    reference: BoolMap,
    *,
    connectivity: Connectivity,
    rule: MatchingRule,
    ignore: BoolMap | None = None,
    never_ignored: BoolMap | None = None,
) -> Match:
    """Match the connected components of two masks of one finding.

    Parameters
    ----------
    prediction, reference : (I, J, K) bool arrays
        One finding, on one grid.
    connectivity : {6, 18, 26}
        Which voxels make one lesion; no default, for the score depends on it.
    rule : {"any-overlap"}
        What a hit is; no default.
    ignore : (I, J, K) bool array, optional
        Voxels about which the reference says nothing. A prediction that touches them and no
        reference is left out of the score.
    never_ignored : (I, J, K) bool array, optional
        Voxels known to be something else, such as another finding of the reference: what
        touches them is scored even if it touches `ignore`.

    Raises
    ------
    GeometryError
        If an array is not 3-D and boolean, or the shapes differ.
    ConfigError
        If `connectivity` or `rule` is unknown.
    """
    if rule not in get_args(MatchingRule):
        raise ConfigError(f"matching rule must be one of {get_args(MatchingRule)}, got {rule!r}")
    _check_shapes(prediction, (reference, ignore, never_ignored))
    predicted = label_instances(prediction, connectivity=connectivity)
    referred = label_instances(reference, connectivity=connectivity)
    pairs = _overlapping(referred, predicted)
    hit_predictions = {pair[1] for pair in pairs}
    ignored = _touching(predicted, ignore) - _touching(predicted, never_ignored) - hit_predictions
    return Match(
        n_reference=int(referred.max(initial=0)),
        n_prediction=int(predicted.max(initial=0)) - len(ignored),
        tp_reference=len({pair[0] for pair in pairs}),
        tp_prediction=len(hit_predictions),
        n_ignored=len(ignored),
        pairs=pairs,
    )


def _check_shapes(first: BoolMap, others: tuple[BoolMap | None, ...]) -> None:
    shapes = [first.shape, *(other.shape for other in others if other is not None)]
    if len(set(shapes)) > 1:
        raise GeometryError(
            f"masks have the shapes {shapes}; bring prediction and reference to one grid first"
        )


def _overlapping(
    first: npt.NDArray[np.int32], second: npt.NDArray[np.int32]
) -> tuple[tuple[int, int], ...]:
    shared = (first > 0) & (second > 0)
    pairs = set(zip(first[shared].tolist(), second[shared].tolist(), strict=True))
    return tuple(sorted(pairs))


def _touching(instances: npt.NDArray[np.int32], zone: BoolMap | None) -> set[int]:
    if zone is None:
        return set()
    return set(np.unique(instances[zone]).tolist()) - {0}
