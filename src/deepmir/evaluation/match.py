"""Which predicted lesions hit which reference lesions, under a rule that is said aloud.

Rule ``any-overlap``: a reference lesion is detected when a predicted one of the same finding
shares a voxel with it; a predicted lesion is correct when it shares a voxel with a reference.
So one prediction over two references detects both and is correct once, and two predictions on
one reference are both correct and detect it once. Sensitivity counts references, precision
counts predictions; swapping the roles swaps the two. Other rules: :mod:`deepmir.evaluation.rules`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize
from scipy.spatial import distance

from deepmir.errors import ConfigError, GeometryError
from deepmir.evaluation.rules import Assignment, Criterion, Rule, rule_named
from deepmir.geometry import Affine, voxel_volume_mm3
from deepmir.lesions import Connectivity, label_instances
from deepmir.lesions.instances import InstanceMap
from deepmir.volume import BoolMap

Pairs = tuple[tuple[int, int], ...]
"""(reference, prediction) instance numbers, sorted."""
_MORE_PAIRS = 1e-7  # weight of a pair where sums are equal
_Scores = npt.NDArray[np.float64]


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
    pairs: Pairs
    """(reference, prediction) instance numbers that hit one another, sorted."""
    ignored: frozenset[int] = frozenset()
    """Numbers of the predicted lesions that are ignored."""

    @property
    def fn(self) -> int:
        """Reference lesions that are missed."""
        return self.n_reference - self.tp_reference

    @property
    def fp(self) -> int:
        """Predicted lesions that are wrong."""
        return self.n_prediction - self.tp_prediction


@dataclass(frozen=True, slots=True, eq=False)
class Components:
    """The lesions of two masks of one finding, after the rule's size limits."""

    referred: InstanceMap
    predicted: InstanceMap


def match_lesions(
    prediction: BoolMap,
    reference: BoolMap,
    *,
    rule: str | Rule,
    connectivity: Connectivity | None = None,
    ignore: BoolMap | None = None,
    never_ignored: BoolMap | None = None,
) -> Match:
    """Match the connected components of two masks of one finding.

    For rules with limits in mm, which need a grid, take :func:`components_of` and
    :func:`match_components`.

    Parameters
    ----------
    prediction, reference : (I, J, K) bool arrays
        One finding, on one grid.
    rule : str or Rule
        What a hit is; no default. A name: see :func:`~deepmir.evaluation.rules.rule_named`.
    connectivity : {6, 18, 26}, optional
        Which voxels make one lesion, in place of the named rule's own.
    ignore : (I, J, K) bool array, optional
        Voxels about which the reference says nothing. A prediction that touches them and no
        reference is left out of the score.
    never_ignored : (I, J, K) bool array, optional
        Voxels known to be something else, such as another finding of the reference: what
        touches them is scored even if it touches `ignore`.

    Raises
    ------
    GeometryError
        If an array is not 3-D and boolean, the shapes differ, or the rule needs a grid.
    ConfigError
        If `connectivity` or `rule` is unknown.
    """
    rule = resolve_rule(rule, connectivity)
    _check_shapes(prediction, (reference, ignore, never_ignored))
    components = components_of(prediction, reference, rule=rule, affine=None)
    return match_components(components, rule=rule, ignore=ignore, never_ignored=never_ignored)


def resolve_rule(rule: str | Rule, connectivity: Connectivity | None) -> Rule:
    """Return the rule that a name stands for; a rule itself comes back as it is.

    Raises
    ------
    ConfigError
        If there is no such rule, or both a rule and another connectivity are given.
    """
    if isinstance(rule, str):
        return rule_named(rule, connectivity=connectivity)
    if connectivity not in (None, rule.connectivity):
        raise ConfigError(
            f"the rule {rule.name} has {rule.connectivity}-connectivity, but {connectivity!r} was "
            "asked for; give the rule's name instead, or replace its connectivity"
        )
    return rule


def components_of(
    prediction: BoolMap, reference: BoolMap, *, rule: Rule, affine: Affine | None
) -> Components:
    """Label both masks as the rule says, without what its size limits drop.

    Raises
    ------
    GeometryError
        If a mask is not 3-D and boolean, or the rule has a limit in mm and there is no affine.
    """
    if rule.needs_grid and affine is None:
        raise GeometryError(f"the rule {rule.name} measures in mm; give the affine of the grid")
    most = np.inf
    if rule.max_diameter_mm is not None and affine is not None:
        most = np.pi / 6 * rule.max_diameter_mm**3 / voxel_volume_mm3(affine)
    predicted, referred = (
        _within_limits(
            label_instances(mask, connectivity=rule.connectivity), least=rule.min_voxels, most=most
        )
        for mask in (prediction, reference)
    )
    return Components(referred, predicted)


def match_components(
    components: Components,
    *,
    rule: Rule,
    ignore: BoolMap | None = None,
    never_ignored: BoolMap | None = None,
    affine: Affine | None = None,
) -> Match:
    """Match lesions that are labelled already; see :func:`match_lesions`."""
    referred, predicted = components.referred, components.predicted
    pairs = _pairs(components, rule=rule, affine=affine)
    hit_predictions = {pair[1] for pair in pairs}
    ignored = _touching(predicted, ignore) - _touching(predicted, never_ignored) - hit_predictions
    ties_count = rule.assignment is Assignment.NEAREST
    return Match(
        n_reference=int(referred.max(initial=0)),
        n_prediction=int(predicted.max(initial=0)) - len(ignored),
        tp_reference=len(pairs) if ties_count else len({pair[0] for pair in pairs}),
        tp_prediction=len(hit_predictions),
        n_ignored=len(ignored),
        pairs=pairs,
        ignored=frozenset(ignored),
    )


def shared_voxels(
    first: npt.NDArray[np.int32], second: npt.NDArray[np.int32]
) -> npt.NDArray[np.int64]:
    """Count the voxels that each instance of `first` shares with each of `second`: (n, m)."""
    rows, columns = int(first.max(initial=0)), int(second.max(initial=0))
    both = (first > 0) & (second > 0)
    cells = (first[both].astype(np.int64) - 1) * columns + second[both] - 1
    return np.bincount(cells, minlength=rows * columns).reshape(rows, columns)


def sizes_of(instances: InstanceMap) -> npt.NDArray[np.int64]:
    """Voxels of instance 1, 2, …."""
    inside = instances[instances > 0]
    return np.bincount(inside, minlength=int(instances.max(initial=0)) + 1)[1:]


def centroids_voxel(instances: InstanceMap) -> npt.NDArray[np.float64]:
    """Centroid (n, 3) of instance 1, 2, … in voxels."""
    n = int(instances.max(initial=0))
    places = np.nonzero(instances)
    numbers = instances[places]
    sums = [np.bincount(numbers, weights=axis, minlength=n + 1)[1:] for axis in places]
    count = np.bincount(numbers, minlength=n + 1)[1:]
    return np.stack(sums, axis=1) / np.maximum(count, 1)[:, None]


# ---- which pairs may match, and which of them do ---------------------------


def _pairs(components: Components, *, rule: Rule, affine: Affine | None) -> Pairs:
    """Pairs that match: (reference, prediction), counted from 1."""
    scores = _CRITERIA[rule.criterion](components, rule, affine)
    rows, columns = _ASSIGNMENTS[rule.assignment](scores)
    chosen = zip((rows + 1).tolist(), (columns + 1).tolist(), strict=True)
    return tuple(sorted(chosen))


def _by_overlap(components: Components, rule: Rule, affine: Affine | None) -> _Scores:
    """Score of each pair, the more the better; -inf where the two may not match."""
    del rule, affine
    shared = shared_voxels(components.referred, components.predicted)
    return np.where(shared > 0, shared, -np.inf)


def _by_iou(components: Components, rule: Rule, affine: Affine | None) -> _Scores:
    del affine
    shared = shared_voxels(components.referred, components.predicted)
    sizes = (sizes_of(components.referred)[:, None], sizes_of(components.predicted)[None])
    iou = shared / np.maximum(sizes[0] + sizes[1] - shared, 1)
    return np.where(iou >= (rule.limit or 0.0), iou, -np.inf)


def _by_distance(components: Components, rule: Rule, affine: Affine | None) -> _Scores:
    steps = np.eye(3) if affine is None else affine[:3, :3]
    return _by_apart(components, rule, steps)


def _by_voxel_distance(components: Components, rule: Rule, affine: Affine | None) -> _Scores:
    del affine
    return _by_apart(components, rule, np.eye(3))


def _by_apart(components: Components, rule: Rule, steps: _Scores) -> _Scores:
    apart = distance.cdist(
        centroids_voxel(components.referred) @ steps.T,
        centroids_voxel(components.predicted) @ steps.T,
    )
    return np.where(apart < (rule.limit or 0.0), -apart, -np.inf)


_Chosen = tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]


def _all_pairs(scores: _Scores) -> _Chosen:
    rows, columns = np.nonzero(np.isfinite(scores))
    return rows, columns


def _most_pairs(scores: _Scores) -> _Chosen:
    """Choose as many pairs as can be; among such choices the best in sum."""
    return _best_sum(scores, bonus=2.0 * min(scores.shape) + 1.0)


def _best_sum(scores: _Scores, *, bonus: float = _MORE_PAIRS) -> _Chosen:
    """Choose the best pairs in sum; each pair weighs `bonus` times the whole range more.

    The least bonus settles equal sums for more pairs: else the order of the lesions, and so how
    the head lay in the scanner, would decide.
    """
    allowed = np.isfinite(scores)
    if not allowed.any():
        return np.empty(0, dtype=np.intp), np.empty(0, dtype=np.intp)
    largest = float(np.abs(scores[allowed]).max()) or 1.0
    worth = np.where(allowed, scores / largest + bonus, 0.0)
    rows, columns = optimize.linear_sum_assignment(worth, maximize=True)
    kept = allowed[rows, columns]
    return rows[kept], columns[kept]


def _greedy(scores: _Scores) -> _Chosen:
    rows, columns = np.nonzero(np.isfinite(scores))
    order = np.argsort(-scores[rows, columns], kind="stable")
    used_rows: set[int] = set()
    used_columns: set[int] = set()
    chosen = []
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row not in used_rows and column not in used_columns:
            used_rows.add(row)
            used_columns.add(column)
            chosen.append((row, column))
    pairs = np.array(chosen, dtype=np.intp).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def _nearest_only(scores: _Scores) -> _Chosen:
    """Let each prediction claim its best reference; the best claims of each win, ties too."""
    if not scores.size:
        return np.empty(0, dtype=np.intp), np.empty(0, dtype=np.intp)
    columns = np.flatnonzero(np.isfinite(scores).any(axis=0))
    rows = scores[:, columns].argmax(axis=0)
    claim = scores[rows, columns]
    best = np.full(len(scores), -np.inf)
    np.maximum.at(best, rows, claim)
    wins = claim == best[rows]
    return rows[wins], columns[wins]


_CRITERIA: dict[Criterion, Callable[[Components, Rule, Affine | None], _Scores]] = {
    Criterion.OVERLAP: _by_overlap,
    Criterion.IOU: _by_iou,
    Criterion.DISTANCE: _by_distance,
    Criterion.VOXEL_DISTANCE: _by_voxel_distance,
}
_ASSIGNMENTS: dict[Assignment, Callable[[_Scores], _Chosen]] = {
    Assignment.ALL: _all_pairs,
    Assignment.OPTIMAL: _most_pairs,
    Assignment.BEST_SUM: _best_sum,
    Assignment.GREEDY: _greedy,
    Assignment.NEAREST: _nearest_only,
}


def _within_limits(instances: InstanceMap, *, least: int, most: float) -> InstanceMap:
    """Drop what is too small or too large and count the rest anew."""
    sizes = sizes_of(instances)
    kept = np.flatnonzero((sizes >= least) & (sizes <= most)) + 1
    if len(kept) == len(sizes):
        return instances
    renumber = np.zeros(len(sizes) + 1, dtype=np.int32)
    renumber[kept] = np.arange(1, len(kept) + 1)
    return renumber[instances]


def _check_shapes(first: BoolMap, others: tuple[BoolMap | None, ...]) -> None:
    shapes = [first.shape, *(other.shape for other in others if other is not None)]
    if len(set(shapes)) > 1:
        raise GeometryError(
            f"masks have the shapes {shapes}; bring prediction and reference to one grid first"
        )


def _touching(instances: npt.NDArray[np.int32], zone: BoolMap | None) -> set[int]:
    if zone is None:
        return set()
    return set(np.unique(instances[zone]).tolist()) - {0}
