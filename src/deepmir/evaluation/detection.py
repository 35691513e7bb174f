"""Lesion-wise detection scores of one person, and of many together.

    (prediction map, reference map) ──evaluate_person──▶ Score ──pool──▶ Score of all persons

A score that is not defined is None, never 0: sensitivity without a reference lesion, precision
without a predicted one, F1 without either. False positives on persons without any reference
lesion are kept apart, because there no sensitivity and no F1 can show them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from deepmir.errors import GeometryError
from deepmir.evaluation.match import (
    Components,
    Match,
    components_of,
    match_components,
    resolve_rule,
)
from deepmir.evaluation.rules import Empties, Rule
from deepmir.geometry import Affine
from deepmir.labels import Finding
from deepmir.lesions import Connectivity
from deepmir.lesions.instances import InstanceMap, bounding_box, check_findings
from deepmir.volume import BoolMap, IntMap

IGNORE = 255
"""Value of a reference map where a deposit is present that no rater could have seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """Counts of one finding over one or more persons; everything else follows from them."""

    n_persons: int
    n_persons_without: int
    """Persons without a reference lesion of this finding."""
    n_reference: int
    n_detected: int
    """Reference lesions that were detected."""
    n_predicted: int
    n_correct: int
    """Predicted lesions that hit a reference lesion."""
    n_ignored: int
    """Predicted lesions on the ignore zone only: neither true nor false."""
    n_false_without: int
    """False positives on the persons without a reference lesion."""
    n_covering: int = 0
    """Predicted lesions that hit several references at once."""
    n_split: int = 0
    """Reference lesions that several predictions hit."""
    n_recounted: int = 0
    """What precision adds to the correct predictions where a rule counts references instead."""

    @property
    def n_missed(self) -> int:
        """Reference lesions that were missed."""
        return self.n_reference - self.n_detected

    @property
    def n_false(self) -> int:
        """Predicted lesions that hit nothing."""
        return self.n_predicted - self.n_correct

    @property
    def sensitivity(self) -> float | None:
        """Share of the reference lesions that were detected; None without any."""
        return _ratio(self.n_detected, self.n_reference)

    @property
    def precision(self) -> float | None:
        """Share of the predicted lesions that are correct; None without any."""
        return _ratio(self.n_correct + self.n_recounted, self.n_predicted + self.n_recounted)

    @property
    def f1(self) -> float | None:
        """Harmonic mean of sensitivity and precision.

        0 where nothing was hit though there was something to hit or something predicted; None
        where there is neither.
        """
        if not self.n_reference and not self.n_predicted:
            return None
        sensitivity, precision = self.sensitivity or 0.0, self.precision or 0.0
        total = sensitivity + precision
        return 2 * sensitivity * precision / total if total else 0.0

    @property
    def false_per_person(self) -> float | None:
        """False positives per person, over all persons."""
        return _ratio(self.n_false, self.n_persons)

    @property
    def false_per_person_without(self) -> float | None:
        """False positives per person who has no such lesion; None without such persons."""
        return _ratio(self.n_false_without, self.n_persons_without)


@dataclass(frozen=True, slots=True)
class Confusion:
    """What predicted lesions lie on, and what happened to reference lesions.

    `predicted[row][column]` counts predicted lesions of finding `row`; columns are the
    reference's CMB, IRON, CALCIFICATION, the ignore zone, and nothing. A predicted lesion is
    counted once: on its own finding if it touches it, else on the finding that it shares most
    voxels with, else on the ignore zone, else on nothing.
    """

    predicted: tuple[tuple[int, ...], ...]
    missed: tuple[int, ...]
    """Reference lesions by finding that no prediction of any finding touches."""


@dataclass(frozen=True, slots=True)
class Score:
    """Detection per finding and the confusion between findings, with the rule they follow."""

    rule: Rule
    cmb: Detection
    iron: Detection
    calcification: Detection
    confusion: Confusion

    @property
    def connectivity(self) -> Connectivity:
        """Which voxels make one lesion."""
        return self.rule.connectivity

    def of(self, finding: Finding) -> Detection:
        """Return the detection of one finding."""
        return {
            Finding.CMB: self.cmb,
            Finding.IRON: self.iron,
            Finding.CALCIFICATION: self.calcification,
        }[finding]


@dataclass(frozen=True, slots=True)
class PersonMean:
    """Means over the persons who have the finding; None where no person gives a value."""

    n_persons: int
    sensitivity: float | None
    precision: float | None
    """Over those of them with a prediction."""
    f1: float | None


@dataclass(frozen=True, slots=True)
class Ratios:
    """Sensitivity, precision and F1 with the rule's treatment of what cannot be divided."""

    sensitivity: float | None
    precision: float | None
    f1: float | None


@dataclass(frozen=True, slots=True, eq=False)
class MatchedFinding:
    """The lesions of one finding of one person, and which of them hit one another."""

    finding: Finding
    components: Components
    match: Match


def evaluate_person(
    prediction: IntMap,
    reference: IntMap,
    *,
    rule: str | Rule,
    connectivity: Connectivity | None = None,
    affine: Affine | None = None,
) -> Score:
    """Score one person's findings against the reference.

    Parameters
    ----------
    prediction : (I, J, K) integer array
        Values of :class:`~deepmir.labels.Finding`; 0 is background.
    reference : (I, J, K) integer array
        The same, on the same grid; 255 marks what no rater could have seen. It is no reference
        lesion, and a prediction that touches it and no reference lesion is not scored.
    rule : str or Rule
        What a hit is: ``any-overlap``, or a name of :data:`deepmir.evaluation.rules.RULES`.
    connectivity : {6, 18, 26}, optional
        Which voxels make one lesion; needed for ``any-overlap``, else the rule's own.
    affine : (4, 4) array, optional
        Of the grid; rules with limits in mm need it.

    Raises
    ------
    GeometryError
        If an array is not 3-D and of integers, the shapes differ, or the rule needs an affine.
    InputError
        If an array holds a value without a meaning.
    ConfigError
        If `connectivity` or `rule` is unknown.
    """
    rule = resolve_rule(rule, connectivity)
    check_maps(prediction, reference)
    box = bounding_box((prediction != 0) | (reference != 0))
    prediction, reference = prediction[box], reference[box]
    matched = match_findings(prediction, reference, rule=rule, affine=affine)
    return score_of(matched, prediction, reference, rule=rule)


def check_maps(prediction: IntMap, reference: IntMap) -> None:
    """Check that two maps hold findings, and have one shape.

    Raises
    ------
    GeometryError
        If an array is not 3-D and of integers, or the shapes differ.
    InputError
        If an array holds a value without a meaning.
    """
    check_findings(prediction, name="the prediction")
    check_findings(reference, name="the reference", also_allowed=(IGNORE,))
    if prediction.shape != reference.shape:
        raise GeometryError(
            f"the prediction has shape {prediction.shape} but the reference {reference.shape}; "
            "bring both to one grid first"
        )


def match_findings(
    prediction: IntMap, reference: IntMap, *, rule: Rule, affine: Affine | None
) -> tuple[MatchedFinding, ...]:
    """Match the lesions of each finding; the maps as for :func:`evaluate_person`."""
    ignore: BoolMap = reference == IGNORE
    other: BoolMap = (reference != 0) & ~ignore
    matched = []
    for finding in Finding:
        components = components_of(
            prediction == finding, reference == finding, rule=rule, affine=affine
        )
        match = match_components(
            components, rule=rule, ignore=ignore, never_ignored=other, affine=affine
        )
        matched.append(MatchedFinding(finding, components, match))
    return tuple(matched)


def score_of(
    matched: Sequence[MatchedFinding], prediction: IntMap, reference: IntMap, *, rule: Rule
) -> Score:
    """Count one person's matches."""
    cmb, iron, calcification = (_detection(one.match, rule=rule) for one in matched)
    return Score(rule, cmb, iron, calcification, _confuse(matched, prediction, reference))


def pool(scores: Sequence[Score]) -> Score:
    """Add up the counts of many persons, so that every lesion weighs the same.

    Raises
    ------
    ValueError
        If there is no score, or they follow different rules.
    """
    rules = {score.rule for score in scores}
    if len(rules) != 1:
        texts = sorted(rule.text for rule in rules)
        raise ValueError(f"scores to be pooled must follow one rule, got {texts}")
    first = scores[0]
    cmb, iron, calcification = (
        _added([score.of(finding) for score in scores]) for finding in Finding
    )
    predicted = np.sum([score.confusion.predicted for score in scores], axis=0)
    missed = np.sum([score.confusion.missed for score in scores], axis=0)
    confusion = Confusion(_rows(predicted), tuple(missed.tolist()))
    return Score(first.rule, cmb, iron, calcification, confusion)


def mean_over_persons(detections: Sequence[Detection]) -> PersonMean:
    """Average one finding's scores over the persons who have it, so that persons weigh the same.

    Parameters
    ----------
    detections : sequence of Detection
        One per person. Persons without a reference lesion are left out: their false positives
        are in `Detection.false_per_person_without` of the pooled score.
    """
    having = [detection for detection in detections if detection.n_reference]
    return PersonMean(
        n_persons=len(having),
        sensitivity=_mean([detection.sensitivity for detection in having]),
        precision=_mean([detection.precision for detection in having]),
        f1=_mean([detection.f1 for detection in having]),
    )


def ratios_of(detection: Detection, empties: Empties) -> Ratios:
    """Give the three ratios, with what a rule puts where nothing can be divided."""
    no_reference, no_prediction = not detection.n_reference, not detection.n_predicted
    ratios = Ratios(detection.sensitivity, detection.precision, detection.f1)
    match empties:
        case Empties.ZERO:
            return Ratios(ratios.sensitivity or 0.0, ratios.precision or 0.0, ratios.f1 or 0.0)
        case Empties.ONE_WHEN_BOTH:
            filled = 1.0 if no_reference and no_prediction else 0.0
            known = (ratios.sensitivity, ratios.precision, ratios.f1)
            return Ratios(*(filled if value is None else value for value in known))
        case Empties.NO_REFERENCE_NO_F1 if no_reference:
            return Ratios(None, ratios.precision, None)
    return ratios


def _detection(match: Match, *, rule: Rule) -> Detection:
    without = match.n_reference == 0
    references = [reference for reference, _ in match.pairs]
    predictions = [prediction for _, prediction in match.pairs]
    recounted = match.tp_reference - match.tp_prediction
    return Detection(
        n_persons=1,
        n_persons_without=int(without),
        n_reference=match.n_reference,
        n_detected=match.tp_reference,
        n_predicted=match.n_prediction,
        n_correct=match.tp_prediction,
        n_ignored=match.n_ignored,
        n_false_without=match.fp if without else 0,
        n_covering=sum(predictions.count(number) > 1 for number in set(predictions)),
        n_split=sum(references.count(number) > 1 for number in set(references)),
        n_recounted=recounted if rule.precision_counts_references else 0,
    )


def _confuse(matched: Sequence[MatchedFinding], prediction: IntMap, reference: IntMap) -> Confusion:
    predicted = np.zeros((len(Finding), len(Finding) + 2), dtype=np.intp)
    missed = []
    for row, one in enumerate(matched):
        places = places_of(one, reference)
        predicted[row] = np.bincount(places, minlength=len(Finding) + 2)
        referred = one.components.referred
        touched = set(np.unique(referred[prediction != 0]).tolist()) - {0}
        missed.append(int(referred.max(initial=0)) - len(touched))
    return Confusion(_rows(np.roll(predicted, -1, axis=1)), tuple(missed))


def places_of(one: MatchedFinding, reference: IntMap) -> npt.NDArray[np.intp]:
    """Tell what each predicted lesion lies on: 0 nothing, 1 to 3 a finding, 4 the ignore zone.

    What hits a reference lesion of its own finding under the rule lies on its own finding.
    """
    columns = np.zeros(256, dtype=np.intp)
    columns[[*Finding, IGNORE]] = range(1, len(Finding) + 2)
    hits = [number - 1 for _, number in one.match.pairs]
    return _places(one.components.predicted, columns[reference], own=int(one.finding), hits=hits)


def _places(
    instances: InstanceMap, under: npt.NDArray[np.intp], *, own: int, hits: Sequence[int]
) -> npt.NDArray[np.intp]:
    n_instances, n_columns = int(instances.max(initial=0)), len(Finding) + 2
    inside: BoolMap = instances > 0
    cells = (instances[inside] - 1) * n_columns + under[inside]
    shared = np.bincount(cells, minlength=n_instances * n_columns)
    shared = shared.reshape(n_instances, n_columns)
    on_finding = shared[:, 1:-1]
    other = np.where(on_finding.any(axis=1), on_finding.argmax(axis=1) + 1, 0)
    ignored = (other == 0) & (shared[:, -1] > 0)
    place = np.where(ignored, n_columns - 1, other)
    place = np.where(shared[:, own] > 0, own, place)
    place[list(hits)] = own
    return place


def _added(detections: Sequence[Detection]) -> Detection:
    return Detection(
        **{
            field.name: sum(getattr(detection, field.name) for detection in detections)
            for field in fields(Detection)
        }
    )


def _rows(table: npt.NDArray[np.intp]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(row) for row in table.tolist())


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
