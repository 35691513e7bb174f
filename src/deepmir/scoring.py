"""The whole flow of an evaluation: find, read, score, compare, write.

    PRED, REF ──pair──▶ persons, one at a time ──assess──▶ rows ──summarise──▶ tables, page, JSON

One person's maps are in memory at a time, so a cohort of any size fits.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np

from deepmir.errors import ConfigError, GeometryError, InputError
from deepmir.evaluation.bootstrap import Runs
from deepmir.evaluation.cohort import (
    CohortAssessment,
    MethodComparison,
    RaterAgreement,
    compare_methods,
    compare_raters,
    pairs_of,
    summarise_cohort,
    summarise_runs,
)
from deepmir.evaluation.detection import IGNORE
from deepmir.evaluation.person import (
    PersonAssessment,
    PersonMaps,
    ScoredLesion,
    Status,
    assess_person,
)
from deepmir.evaluation.records import (
    Sheet,
    cohort_sheets,
    comparisons_sheet,
    plain,
    raters_sheet,
    runs_sheet,
)
from deepmir.evaluation.rules import RULES, Rule
from deepmir.evaluation.tables import latex_table, markdown_table
from deepmir.geometry import Grid
from deepmir.io.atomic import stage_outputs, write_text
from deepmir.io.nifti import read_label_map, read_probabilities, read_volume
from deepmir.io.pairing import (
    FilePair,
    Pairing,
    group_of,
    other_maps,
    pair_label_maps,
    probability_maps,
    read_groups,
)
from deepmir.io.provenance import Software, describe_software, peak_memory_bytes, utc_now
from deepmir.io.tables import write_table
from deepmir.labels import ALL_REGION_NUMBERS, Finding
from deepmir.lesions import label_instances
from deepmir.preprocessing.resample import resample, resample_labels
from deepmir.report.evaluation import EvaluationView, render_evaluation
from deepmir.report.gallery import ErrorCard, Scene, error_card
from deepmir.volume import IntMap, Modality, Volume

Progress = Callable[[str, float], None]
"""Told the name of the stage at work and how much of it is done, 0 to 1."""

PAGE_NAME = "evaluation.html"
RECORD_NAME = "evaluation.json"
_SHEETS = (
    "summary", "persons", "lesions", "strata", "confusion", "curves", "reliability",
    "comparisons", "runs", "raters",
)  # fmt: skip
_IMAGE_ENDINGS = ("_swi", "_T2starw", "_Chimap", "_T2w", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSources:
    """Where everything lies; what is None is not given."""

    prediction: Path
    reference: Path
    pattern: str | None = None
    """Which files of the folders are meant."""
    probabilities: Path | None = None
    images: Path | None = None
    regions: Path | None = None
    """Without it, maps of regions are taken from the reference's folder, else the prediction's."""
    groups: Path | None = None
    """Table such as ``participants.tsv``."""
    group_column: str = "protocol"
    others: tuple[tuple[str, Path], ...] = ()
    """(name, path) of further methods."""
    runs: tuple[Path, ...] = ()
    """Further runs of the first method."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSettings:
    """How to score."""

    rule: Rule = RULES["deepmir"]
    findings: tuple[Finding, ...] = tuple(Finding)
    prediction_labels: Mapping[int, int] | None = None
    """From labels in the files to findings, 255 (not scored) or 0; None: findings as they are."""
    reference_labels: Mapping[int, int] | None = None
    resample: bool = False
    """Bring predictions onto the reference's grid where they lie on another."""
    extent: float = 0.5
    """Least probability of the voxels of a candidate."""
    raters: bool = False
    """Compare reference, prediction and other methods pair by pair, as raters."""
    seed: int = 0
    max_pictures: int = 24

    def __post_init__(self) -> None:
        if not 0 < self.extent <= 1:
            raise ConfigError(f"the extent is a probability above 0, got {self.extent}")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class EvaluationResult:
    """Everything that was found out; nothing of it is written yet."""

    sources: EvaluationSources
    settings: EvaluationSettings
    cohort: CohortAssessment
    comparisons: tuple[MethodComparison, ...]
    runs: Mapping[Finding, tuple[Runs, ...]]
    raters: tuple[RaterAgreement, ...]
    one_sided: Mapping[str, tuple[str, ...]]
    """Who lacks what: ``prediction``, ``reference``, ``prediction of NAME``, …"""
    resampled: tuple[str, ...]
    """Persons whose prediction was brought onto the reference's grid."""
    notices: tuple[str, ...]
    cards: tuple[ErrorCard, ...]
    files: tuple[FilePair, ...]
    software: Software
    started: str
    command_line: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        """Tell whether every person has all label maps; images and curves may lack some."""
        return not any(what.startswith(("prediction", "reference")) for what in self.one_sided)


@dataclass(slots=True)
class _Log:
    """What is to be told at the end."""

    one_sided: dict[str, tuple[str, ...]] = field(default_factory=dict)
    resampled: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def lacking(self, what: str, persons: Sequence[str], *, so_not: str) -> None:
        """Note who lacks what, and what is therefore not done: ``so_not="scored"``."""
        if persons:
            self.one_sided[what] = tuple(persons)
            self.notices.append(
                f"{len(persons)} person{'s have' if len(persons) > 1 else ' has'} no {what} and "
                f"{'are' if len(persons) > 1 else 'is'} not {so_not}: {', '.join(persons)}"
            )


def evaluate(
    sources: EvaluationSources,
    settings: EvaluationSettings | None = None,
    *,
    progress: Progress | None = None,
    command_line: tuple[str, ...] = (),
) -> EvaluationResult:
    """Score predictions against a reference, person by person, and compare what else is given.

    Parameters
    ----------
    sources : EvaluationSources
    settings : EvaluationSettings, optional
        By default the rule `deepmir`, all findings, no resampling.
    progress : callable, optional
        Told the stage and its share that is done.
    command_line : tuple of str
        For the record.

    Raises
    ------
    InputError
        If a file is missing, unreadable or not what it should be; a folder is empty; a person
        has two maps; or no person has both sides.
    GeometryError
        If a prediction lies on another grid than its reference, and `resample` is off.
    ConfigError
        If a setting is out of range.
    """
    settings = settings or EvaluationSettings()
    tell, started, log = progress or _silent, utc_now(), _Log()
    reader = _Reader(sources, settings, log)
    pairing = pair_label_maps(sources.prediction, sources.reference, pattern=sources.pattern)
    log.lacking("prediction", pairing.only_reference, so_not="scored")
    log.lacking("reference", pairing.only_prediction, so_not="scored")
    persons = reader.assess(pairing.pairs, tell=partial(tell, "score"), complete=True)
    others = {
        name: reader.assess_other(path, name, tell=partial(tell, name))
        for name, path in sources.others
    }
    runs = [
        reader.assess_other(path, f"run {number}", tell=partial(tell, f"run {number}"))
        for number, path in enumerate(sources.runs, 2)
    ]
    raters = reader.compare_raters(pairing, persons) if settings.raters else ()
    cards = reader.picture(pairing.pairs, persons, tell=partial(tell, "pictures"))
    tell("summarise", 0.0)
    findings, seed = settings.findings, settings.seed
    return EvaluationResult(
        sources=sources,
        settings=settings,
        cohort=summarise_cohort(persons, findings=findings, seed=seed),
        comparisons=_comparisons(persons, others, settings),
        runs=summarise_runs(_common([persons, *runs]), findings=findings, seed=seed)
        if runs
        else {},
        raters=raters,
        one_sided=log.one_sided,
        resampled=tuple(log.resampled),
        notices=tuple(log.notices),
        cards=cards,
        files=pairing.pairs,
        software=describe_software(),
        started=started,
        command_line=command_line,
    )


def write_evaluation(result: EvaluationResult, out: Path, *, overwrite: bool) -> Path:
    """Write page, tables, JSON, Markdown and LaTeX; they appear together. Return the page.

    Raises
    ------
    OutputError
        If an evaluation is there already and `overwrite` is off, or writing fails.
    """
    own = [Path(f"{name}{ending}") for name in _SHEETS for ending in (".tsv", ".json")]
    own += [Path(name) for name in (PAGE_NAME, "table.md", "table.tex", RECORD_NAME)]
    with stage_outputs(out, own=own, overwrite=overwrite) as staging:
        for sheet in sheets_of(result):
            write_table(staging / f"{sheet.name}.tsv", sheet.columns, sheet.rows)
        write_text(staging / "table.md", markdown_table(result.cohort))
        write_text(staging / "table.tex", latex_table(result.cohort))
        write_text(staging / PAGE_NAME, render_evaluation(view_of(result)))
        write_text(staging / RECORD_NAME, json.dumps(record_of(result), indent=1) + "\n")
    return out / PAGE_NAME


def sheets_of(result: EvaluationResult) -> tuple[Sheet, ...]:
    """All tables of an evaluation."""
    rule = result.cohort.rule.text
    sheets = [*cohort_sheets(result.cohort)]
    if result.comparisons:
        sheets.append(comparisons_sheet(result.comparisons, rule))
    if result.runs:
        sheets.append(runs_sheet(result.runs, rule))
    if result.raters:
        sheets.append(raters_sheet(result.raters, rule))
    return tuple(sheets)


def record_of(result: EvaluationResult) -> dict[str, object]:
    """Everything but the lesions and the pictures, as plain values for JSON."""
    cohort = result.cohort
    record = {
        "started": result.started,
        "command_line": result.command_line,
        "software": result.software,
        "peak_memory_bytes": peak_memory_bytes(),
        "sources": result.sources,
        "settings": result.settings,
        "rule": cohort.rule,
        "rule_text": cohort.rule.text,
        "one_sided": result.one_sided,
        "resampled": result.resampled,
        "notices": result.notices,
        "files": result.files,
        "persons": [
            {"person": one.person, "group": one.group, "score": one.score, "overlaps": one.overlaps}
            for one in cohort.persons
        ],
        "summaries": {one.finding: one for one in cohort.summaries},
        "confusion": cohort.score.confusion,
        "strata": cohort.strata,
        "comparisons": result.comparisons,
        "runs": result.runs,
        "raters": result.raters,
    }
    return cast(dict[str, object], plain(record))


def view_of(result: EvaluationResult) -> EvaluationView:
    """Return what the page of a result shows."""
    given = {**_named(result.sources), **_named(result.settings)}
    given.pop("rule")
    software = result.software
    given["deepmir"], given["Python"] = software.deepmir, software.python
    given["command"] = " ".join(result.command_line) or "called from Python"
    return EvaluationView(
        title=f"{result.sources.prediction.name} against {result.sources.reference.name}",
        cohort=result.cohort,
        comparisons=result.comparisons,
        runs=result.runs,
        raters=result.raters,
        notices=result.notices,
        cards=result.cards,
        n_errors=sum(len(_errors(person, result.settings)) for person in result.cohort.persons),
        settings=tuple(given.items()),
        version=software.deepmir,
        started=result.started,
    )


def parse_labels(text: str) -> dict[int, int]:
    """Read a mapping of labels, such as ``1=CMB,2=IRON,9=ignore,4=background``.

    Raises
    ------
    ConfigError
        If a part is not ``number=meaning``, or a number has two meanings.

    Examples
    --------
    >>> parse_labels("7=CMB, 9=ignore")
    {7: 1, 9: 255}
    """
    meanings = {finding.name: int(finding) for finding in Finding}
    meanings |= {"IGNORE": IGNORE, "BACKGROUND": 0}
    mapping: dict[int, int] = {}
    for part in text.split(","):
        number, _, meaning = (piece.strip() for piece in part.partition("="))
        if not number.isdecimal() or meaning.upper() not in meanings or int(number) in mapping:
            raise ConfigError(
                f"the mapping of labels {text!r} is wrong at {part.strip()!r}; wanted each label "
                f"once, as number=meaning, meanings: {', '.join(meanings)}"
            )
        mapping[int(number)] = meanings[meaning.upper()]
    return mapping


# ---- one person at a time --------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads what belongs to a person and scores it."""

    sources: EvaluationSources
    settings: EvaluationSettings
    log: _Log

    def assess(
        self, pairs: Sequence[FilePair], *, tell: Callable[[float], None], complete: bool
    ) -> list[PersonAssessment]:
        """Score all pairs; with probabilities, regions and groups if `complete`."""
        around = self._around(pairs) if complete else _Around()
        assessed = []
        for number, pair in enumerate(pairs):
            tell(number / len(pairs))
            assessed.append(self._assess_one(pair, around, self._read_reference))
        return assessed

    def assess_other(
        self, path: Path, name: str, *, tell: Callable[[float], None]
    ) -> list[PersonAssessment]:
        """Score another method's predictions against the same reference."""
        pairing = pair_label_maps(path, self.sources.reference, pattern=self.sources.pattern)
        self.log.lacking(f"prediction of {name}", pairing.only_reference, so_not="compared")
        return self.assess(pairing.pairs, tell=tell, complete=False)

    def compare_raters(
        self, pairing: Pairing, persons: Sequence[PersonAssessment]
    ) -> tuple[RaterAgreement, ...]:
        """Compare reference, prediction and the other methods, every two of them."""
        sides = {
            "reference": self.sources.reference,
            "prediction": self.sources.prediction,
            **dict(self.sources.others),
        }
        compared: dict[tuple[str, str], Sequence[PersonAssessment]] = {}
        for first, second in pairs_of(sides):
            if (first, second) == ("reference", "prediction"):
                compared[first, second] = persons
                continue
            found = pair_label_maps(sides[second], sides[first], pattern=self.sources.pattern)
            wanted = {pair.person for pair in pairing.pairs}
            common = [pair for pair in found.pairs if pair.person in wanted]
            if common:
                read = self._read_reference if first == "reference" else self._read_prediction
                compared[first, second] = self._between(common, read)
        settings = self.settings
        return compare_raters(compared, findings=settings.findings, seed=settings.seed)

    def picture(
        self,
        pairs: Sequence[FilePair],
        persons: Sequence[PersonAssessment],
        *,
        tell: Callable[[float], None],
    ) -> tuple[ErrorCard, ...]:
        """Draw missed and false lesions where images are given, a few of each person."""
        if self.sources.images is None:
            return ()
        images = other_maps(self.sources.images, _IMAGE_ENDINGS)
        absent = [pair.person for pair in pairs if pair.person not in images]
        self.log.lacking("image", absent, so_not="pictured")
        chosen = _choose_errors([one for one in persons if one.person in images], self.settings)
        files = {pair.person: pair for pair in pairs}
        cards: list[ErrorCard] = []
        for number, (person, lesions) in enumerate(chosen.items()):
            tell(number / len(chosen))
            scene = self._scene(files[person], images[person])
            cards += [error_card(person, lesion, scene) for lesion in lesions]
        return tuple(cards)

    def _between(
        self, pairs: Sequence[FilePair], read_first: Callable[[Path], Volume]
    ) -> list[PersonAssessment]:
        """Score one rater with another as reference, whose files `read_first` reads."""
        return [self._assess_one(pair, _Around(), read_first) for pair in pairs]

    def _around(self, pairs: Sequence[FilePair]) -> "_Around":
        sources = self.sources
        probabilities = {} if sources.probabilities is None else probability_maps(
            sources.probabilities
        )  # fmt: skip
        if sources.probabilities is not None:
            absent = [pair.person for pair in pairs if pair.person not in probabilities]
            self.log.lacking("map of probabilities", absent, so_not="in the curves")
        groups = {} if sources.groups is None else read_groups(sources.groups, sources.group_column)
        return _Around(probabilities, self._regions(), groups)

    def _regions(self) -> dict[str, Path]:
        ending = ("_desc-regions_dseg",)
        if self.sources.regions is not None:
            return other_maps(self.sources.regions, (*ending, ""))
        for side in (self.sources.reference, self.sources.prediction):
            if side.is_dir() and (found := other_maps(side, ending)):
                return found
        return {}

    def _read_reference(self, path: Path) -> Volume:
        return _read_findings(path, self.settings.reference_labels, ignore_allowed=True)

    def _read_prediction(self, path: Path) -> Volume:
        return _read_findings(path, self.settings.prediction_labels, ignore_allowed=False)

    def _assess_one(
        self, pair: FilePair, around: "_Around", read_reference: Callable[[Path], Volume]
    ) -> PersonAssessment:
        reference = read_reference(pair.reference)
        prediction = self._prediction(pair, reference)
        regions = around.regions.get(pair.person)
        probabilities = {
            finding: read_probabilities(path, reference=reference)
            for finding, path in around.probabilities.get(pair.person, {}).items()
            if finding in self.settings.findings
        }
        maps = PersonMaps(
            prediction=prediction,
            reference=cast(IntMap, reference.data),
            affine=reference.affine,
            regions=None if regions is None else _read_regions(regions, reference),
            probabilities=probabilities or None,
            person=pair.person,
            group=group_of(pair.person, around.groups),
        )
        return assess_person(maps, rule=self.settings.rule, extent=self.settings.extent)

    def _prediction(self, pair: FilePair, reference: Volume) -> IntMap:
        """Read the prediction's findings on the reference's grid."""
        volume = self._read_prediction(pair.prediction)
        findings = cast(IntMap, volume.data)
        if volume.grid.matches(reference.grid):
            return findings
        if not self.settings.resample:
            raise GeometryError(
                f"{pair.prediction} {_grid_text(volume.grid)} is not on the grid of "
                f"{pair.reference} {_grid_text(reference.grid)}; resample it first, or let "
                "--resample do so by the nearest voxel, which is written in the result"
            )
        moved = resample_labels(findings, volume.affine, reference.grid)
        before, after = (_n_lesions(data, self.settings.rule) for data in (findings, moved))
        if pair.person not in self.log.resampled:
            self.log.resampled.append(pair.person)
        self.log.notices.append(
            f"{pair.person}: the prediction was resampled onto the reference's grid by the "
            f"nearest voxel; it had {before} lesions before and has {after} now"
        )
        return moved

    def _scene(self, pair: FilePair, image: Path) -> Scene:
        reference = self._read_reference(pair.reference)
        before = len(self.log.notices)
        prediction = self._prediction(pair, reference)
        del self.log.notices[before:]  # said when it was scored
        scan, _ = read_volume(image, Modality.SWI)
        if not scan.grid.matches(reference.grid):
            moved = resample(np.asarray(scan.data, np.float32), scan.affine, reference.grid)
            scan = Volume(moved, reference.affine, Modality.SWI, name=scan.name)
        findings = np.where(reference.data == IGNORE, 0, reference.data)
        return Scene(scan, prediction, cast(IntMap, findings))


@dataclass(frozen=True, slots=True)
class _Around:
    """What else is known of persons, by name."""

    probabilities: Mapping[str, Mapping[Finding, Path]] = field(default_factory=dict)
    regions: Mapping[str, Path] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)


def _read_findings(path: Path, labels: Mapping[int, int] | None, *, ignore_allowed: bool) -> Volume:
    """Read a label map and give its labels their meaning."""
    if labels is None:
        return read_label_map(path, allowed=(*Finding, IGNORE) if ignore_allowed else (*Finding,))
    if not ignore_allowed and IGNORE in labels.values():
        raise InputError(
            f"{path}: only a reference can say what is not to be scored; map these labels of the "
            "prediction to background"
        )
    volume = read_label_map(path, allowed=tuple(labels))
    lookup = np.zeros(max(labels) + 1, dtype=np.int32)
    lookup[list(labels)] = list(labels.values())
    lookup[0] = 0
    return volume.with_data(lookup[cast(IntMap, volume.data)])


def _read_regions(path: Path, reference: Volume) -> IntMap:
    volume = read_label_map(path, reference=reference, allowed=ALL_REGION_NUMBERS)
    return cast(IntMap, volume.data)


def _n_lesions(findings: IntMap, rule: Rule) -> int:
    return sum(
        int(label_instances(findings == finding, connectivity=rule.connectivity).max(initial=0))
        for finding in Finding
    )


def _grid_text(grid: Grid) -> str:
    steps = " × ".join(f"{step:.3g}" for step in grid.spacing_mm)
    return f"({' × '.join(map(str, grid.shape))} voxels of {steps} mm)"


# ---- many ------------------------------------------------------------------


def _comparisons(
    persons: Sequence[PersonAssessment],
    others: Mapping[str, Sequence[PersonAssessment]],
    settings: EvaluationSettings,
) -> tuple[MethodComparison, ...]:
    if not others:
        return ()
    first, *rest = _common([persons, *others.values()])
    return compare_methods(
        first,
        dict(zip(others, rest, strict=True)),
        findings=settings.findings,
        seed=settings.seed,
    )


def _common(sides: Sequence[Sequence[PersonAssessment]]) -> list[list[PersonAssessment]]:
    """Keep the persons that every side has, in one order."""
    shared = set.intersection(*({one.person for one in side} for side in sides))
    if not shared:
        raise InputError("the methods share no person; wanted the same persons from each")
    return [
        sorted((one for one in side if one.person in shared), key=lambda one: one.person)
        for side in sides
    ]


def _errors(person: PersonAssessment, settings: EvaluationSettings) -> list[ScoredLesion]:
    return [
        lesion
        for lesion in person.lesions
        if lesion.status in (Status.MISSED, Status.FALSE) and lesion.finding in settings.findings
    ]


def _choose_errors(
    persons: Sequence[PersonAssessment], settings: EvaluationSettings
) -> dict[str, list[ScoredLesion]]:
    """Choose lesions to be pictured: misses and false ones by turns, spread over persons."""
    queues = {person.person: _by_turns(_errors(person, settings)) for person in persons}
    chosen: dict[str, list[ScoredLesion]] = {}
    left = settings.max_pictures
    while left > 0 and any(queues.values()):
        for name, queue in queues.items():
            if queue and left > 0:
                chosen.setdefault(name, []).append(queue.pop(0))
                left -= 1
    return chosen


def _by_turns(lesions: Iterable[ScoredLesion]) -> list[ScoredLesion]:
    """Order lesions so that misses and false findings, the larger first, take turns."""
    ordered = sorted(lesions, key=lambda lesion: -lesion.n_voxels)
    missed = [lesion for lesion in ordered if lesion.status is Status.MISSED]
    false = [lesion for lesion in ordered if lesion.status is Status.FALSE]
    turns: list[ScoredLesion] = []
    for at in range(max(len(missed), len(false))):
        turns += [*missed[at : at + 1], *false[at : at + 1]]
    return turns


def _named(record: EvaluationSources | EvaluationSettings) -> dict[str, str]:
    return dict(_shown(cast(dict[str, object], plain(record))))


def _shown(values: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if value not in (None, [], {}):
            yield name.replace("_", " "), str(value)


def _silent(stage: str, fraction: float) -> None:
    """Show nothing."""
