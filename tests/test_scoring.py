"""The whole evaluation: from files to page and tables, and every refusal."""

import json
import re
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image

from deepmir import scoring
from deepmir.errors import ConfigError, GeometryError, InputError, OutputError
from deepmir.evaluation.detection import IGNORE
from deepmir.evaluation.rules import RULES
from deepmir.io.tables import read_table
from deepmir.labels import Finding
from deepmir.scoring import (
    EvaluationSettings,
    EvaluationSources,
    evaluate,
    parse_labels,
    write_evaluation,
)

SHAPE = (12, 14, 9)


@pytest.fixture
def affine(phantom_affine):
    return phantom_affine


@pytest.fixture
def cohort(tmp_path, affine):
    """Write persons of two sides, with probabilities, regions and images: see the body."""
    random = np.random.default_rng(5)
    for number in range(4):
        person, reference = f"sub-{number}", np.zeros(SHAPE, dtype=np.uint8)
        reference[2, 3, 1:3] = reference[8, 9, 5] = 1
        reference[5, 12, 7] = 3 if number else 0
        reference[11, 0, 0] = IGNORE
        prediction = np.where(reference == IGNORE, 1, reference).astype(np.uint8)
        prediction[8, 9, 5] = 0 if number == 1 else 1
        prediction[0, 0, 8] = 2 if number == 2 else 0
        write(tmp_path / "ref" / f"{person}_desc-findings_dseg.nii.gz", reference, affine)
        write(tmp_path / "pred" / f"{person}_desc-findings_dseg.nii.gz", prediction, affine)
        regions = np.full(SHAPE, 109, dtype=np.int16)
        write(tmp_path / "ref" / f"{person}_desc-regions_dseg.nii.gz", regions, affine)
        values = np.where(prediction == 1, 0.8, 0.02).astype(np.float32)
        write(tmp_path / "pred" / f"{person}_desc-CMB_probseg.nii.gz", values, affine)
        scan = random.normal(200, 9, SHAPE).astype(np.float32)
        write(tmp_path / "raw" / f"{person}_swi.nii.gz", scan, affine)
    return tmp_path


def write(path, data, affine):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Nifti1Image(data, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.to_filename(path)
    return path


def sources(folder, **more):
    return EvaluationSources(prediction=folder / "pred", reference=folder / "ref", **more)


def change(path, *, data=None, affine=None):
    image = nib.load(path)
    data = np.asarray(image.dataobj) if data is None else data
    write(path, data, image.affine if affine is None else affine)


def findings_file(folder, side="pred", number=1):
    return folder / side / f"sub-{number}_desc-findings_dseg.nii.gz"


# ---- what comes out --------------------------------------------------------


def test_known_counts_from_files(cohort):
    result = evaluate(sources(cohort, probabilities=cohort / "pred"))
    cmb = result.cohort.of(Finding.CMB)
    assert (cmb.detection.n_reference, cmb.detection.n_detected) == (8, 7)
    assert (cmb.detection.n_predicted, cmb.detection.n_false, cmb.detection.n_ignored) == (7, 0, 4)
    assert result.cohort.of(Finding.IRON).detection.n_false == 1
    assert result.cohort.of(Finding.CALCIFICATION).detection.n_persons_without == 1
    assert cmb.curve.sensitivity_at(1) == pytest.approx(7 / 8)
    assert result.cohort.of(Finding.IRON).curve is None
    assert result.one_sided == {}
    assert result.notices == ()


def test_the_output_is_complete_and_consistent(cohort, tmp_path):
    given = sources(
        cohort,
        probabilities=cohort / "pred",
        images=cohort / "raw",
        others=(("theirs", cohort / "ref"),),
        runs=(cohort / "pred",),
    )
    for number in range(4):  # the reference as a method must not hold what is not scored
        path = findings_file(cohort, "ref", number)
        data = np.asarray(nib.load(path).dataobj)
        write(
            cohort / "theirs" / path.name, np.where(data == IGNORE, 0, data), nib.load(path).affine
        )
    given = replace(given, others=(("theirs", cohort / "theirs"),))
    stages = []
    result = evaluate(
        given, EvaluationSettings(raters=True), progress=lambda stage, _: stages.append(stage)
    )
    page = write_evaluation(result, tmp_path / "out", overwrite=False)
    assert page.name == "evaluation.html"
    names = {path.name for path in (tmp_path / "out").iterdir()}
    tables = ("summary", "persons", "lesions", "strata", "confusion", "curves", "reliability")
    tables += ("comparisons", "runs", "raters")
    expected = {f"{name}.{kind}" for name in tables for kind in ("tsv", "json")}
    assert names == expected | {"evaluation.html", "evaluation.json", "table.md", "table.tex"}
    assert dict.fromkeys(stages) == dict.fromkeys(
        ["score", "theirs", "run 2", "pictures", "summarise"]
    )
    check_tables(tmp_path / "out", result)
    check_page(page.read_text(encoding="utf-8"))


def check_tables(out, result):
    lesions = read_table(out / "lesions.tsv")
    persons = read_table(out / "persons.tsv")
    for finding in Finding:
        detection = result.cohort.of(finding).detection
        rows = [row for row in lesions.rows if row[1] == finding.name]
        assert sum(row[2] == "reference" for row in rows) == detection.n_reference
        counted = [row for row in persons.rows if row[2] == finding.name]
        assert (
            sum(int(row[persons.columns.index("n_false")]) for row in counted) == detection.n_false
        )
    for path in out.glob("*.tsv"):
        columns = set(read_table(path).columns)
        assert columns == set(json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))
    record = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    assert record["rule"]["name"] == "deepmir"
    assert record["summaries"]["CMB"]["detection"]["n_detected"] == 7
    assert len(record["persons"]) == 4


def check_page(text):
    assert text.count("any-overlap, 26-connectivity") > 8
    assert text.count("<article") == 2  # one missed, one false
    assert not re.search(r'(src|href)="(?!data:|#)', text)
    assert "http" not in re.sub(r"github\.com\S*|xmlns\S*", "", text.partition("</style>")[2])
    for anchor in re.findall(r'href="#([a-z-]+)"', text):
        assert f'id="{anchor}"' in text


def test_the_same_evaluation_gives_the_same_bytes(cohort, tmp_path):
    results = [evaluate(sources(cohort)) for _ in range(2)]
    for number, result in enumerate(results):
        write_evaluation(replace(result, started="now"), tmp_path / str(number), overwrite=False)
    for path in (tmp_path / "0").glob("*.tsv"):
        assert path.read_bytes() == (tmp_path / "1" / path.name).read_bytes()
    assert (tmp_path / "0" / "evaluation.html").read_text() == (
        tmp_path / "1" / "evaluation.html"
    ).read_text()


def test_an_earlier_evaluation_is_not_overwritten_unasked(cohort, tmp_path):
    result = evaluate(sources(cohort))
    write_evaluation(result, tmp_path / "out", overwrite=False)
    with pytest.raises(OutputError, match="--overwrite"):
        write_evaluation(result, tmp_path / "out", overwrite=False)
    write_evaluation(result, tmp_path / "out", overwrite=True)


def test_one_person_without_any_lesion_has_a_page(tmp_path, affine):
    for side in ("pred", "ref"):
        write(tmp_path / side / "a.nii.gz", np.zeros(SHAPE, dtype=np.uint8), affine)
    result = evaluate(sources(tmp_path))
    assert result.cohort.of(Finding.CMB).detection.f1 is None
    text = write_evaluation(result, tmp_path / "out", overwrite=False).read_text(encoding="utf-8")
    assert "n/a" in text


def test_groups_and_regions_make_strata(cohort):
    table = cohort / "participants.tsv"
    lines = [f"sub-{number}\t{'a' if number < 2 else 'b'}" for number in range(4)]
    table.write_text("participant_id\tsite\n" + "\n".join(lines) + "\n")
    result = evaluate(sources(cohort, groups=table, group_column="site"))
    kinds = {(str(one.kind), one.name) for one in result.cohort.strata}
    assert {("group", "a"), ("group", "b"), ("region", "left frontal")} <= kinds


# ---- labels ----------------------------------------------------------------


def test_other_labels_are_given_their_meaning(cohort):
    for number in range(4):
        path = findings_file(cohort, "pred", number)
        data = np.asarray(nib.load(path).dataobj)
        change(path, data=np.array([0, 40, 41, 300], dtype=np.int16)[data])
    settings = EvaluationSettings(
        prediction_labels=parse_labels("40=CMB,41=IRON,300=CALCIFICATION")
    )
    assert evaluate(sources(cohort), settings).cohort.of(Finding.CMB).detection.n_detected == 7
    with pytest.raises(InputError, match=r"unknown labels \[300\]"):
        evaluate(
            sources(cohort), replace(settings, prediction_labels=parse_labels("40=CMB,41=IRON"))
        )
    with pytest.raises(InputError, match="only a reference"):
        evaluate(sources(cohort), replace(settings, prediction_labels=parse_labels("40=ignore")))


def test_labels_that_are_not_scored_can_be_named_in_the_reference(cohort):
    settings = EvaluationSettings(
        reference_labels=parse_labels("1=ignore,3=CALCIFICATION,255=ignore"),
        findings=(Finding.CMB,),
    )
    found = evaluate(sources(cohort), settings).cohort.of(Finding.CMB).detection
    assert (found.n_reference, found.n_false, found.n_ignored) == (0, 0, 11)


@pytest.mark.parametrize("text", ["1", "CMB=1", "1=blood", "1=CMB,1=IRON", "-1=CMB", ""])
def test_a_mapping_that_means_nothing_is_refused(text):
    with pytest.raises(ConfigError, match="mapping of labels"):
        parse_labels(text)


# ---- grids -----------------------------------------------------------------


def test_another_grid_is_refused_or_resampled_and_said(cohort, affine):
    shifted = affine.copy()
    shifted[:3, 3] += affine[:3, 0]  # by one voxel
    path = findings_file(cohort)
    data = np.asarray(nib.load(path).dataobj)
    moved = np.zeros_like(data)
    moved[:-1] = data[1:]  # the same places in the scanner
    change(path, data=moved, affine=shifted)
    with pytest.raises(GeometryError, match=r"sub-1_.*--resample"):
        evaluate(sources(cohort))
    result = evaluate(sources(cohort), EvaluationSettings(resample=True))
    assert result.resampled == ("sub-1",)
    assert re.search(r"sub-1: the prediction was resampled .* \d lesions", result.notices[0])
    detected = result.cohort.of(Finding.CMB).detection.n_detected
    assert detected == 7


def test_an_other_orientation_of_the_same_grid_needs_no_resampling(cohort):
    path = findings_file(cohort)
    image = nib.load(path)
    flipped = nib.as_closest_canonical(image)
    write(path, np.asarray(flipped.dataobj), flipped.affine)
    assert evaluate(sources(cohort)).cohort.of(Finding.CMB).detection.n_detected == 7


# ---- bad input -------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.float32(0.5), "0.5"),
        (np.float32(np.nan), "nan"),
        (np.float32(-1), "-1"),
        (np.float32(7), r"unknown labels \[7\]"),
    ],
)
def test_what_is_no_label_map_is_refused(values, words, cohort):
    data = np.zeros(SHAPE, dtype=np.float32)
    data[1, 1, 1] = values
    change(findings_file(cohort), data=data)
    with pytest.raises(InputError, match=f"sub-1_.*{words}"):
        evaluate(sources(cohort))


@pytest.mark.parametrize("value", [-0.5, 3.0, np.nan])
def test_what_is_no_probability_is_refused(value, cohort):
    path = cohort / "pred" / "sub-2_desc-CMB_probseg.nii.gz"
    change(path, data=np.full(SHAPE, value, dtype=np.float32))
    with pytest.raises(InputError, match=r"sub-2_desc-CMB_probseg.*0 to 1"):
        evaluate(sources(cohort, probabilities=cohort / "pred"))


def test_persons_with_one_side_are_listed_and_not_dropped_silently(cohort):
    findings_file(cohort, "pred", 0).unlink()
    findings_file(cohort, "ref", 3).unlink()
    result = evaluate(sources(cohort, images=cohort / "raw"))
    assert result.one_sided == {"prediction": ("sub-0",), "reference": ("sub-3",)}
    assert [person.person for person in result.cohort.persons] == ["sub-1", "sub-2"]
    assert "1 person has no prediction and is not scored: sub-0" in result.notices
    assert "sub-3" in scoring.view_of(result).notices[1]


def test_missing_probabilities_and_persons_of_another_method_are_said(cohort):
    (cohort / "pred" / "sub-2_desc-CMB_probseg.nii.gz").unlink()
    for number in (1, 2):
        path = findings_file(cohort, "pred", number)
        write(
            cohort / "other" / path.name, np.asarray(nib.load(path).dataobj), nib.load(path).affine
        )
    result = evaluate(
        sources(cohort, probabilities=cohort / "pred", others=(("other", cohort / "other"),))
    )
    assert result.one_sided["map of probabilities"] == ("sub-2",)
    assert result.one_sided["prediction of other"] == ("sub-0", "sub-3")
    assert any("not in the curves: sub-2" in notice for notice in result.notices)
    assert any("not compared: sub-0, sub-3" in notice for notice in result.notices)
    assert not result.is_complete
    assert result.comparisons[0].comparison.n_pairs <= 2


def test_persons_without_an_image_are_said_and_nothing_is_incomplete(cohort):
    (cohort / "raw" / "sub-1_swi.nii.gz").unlink()
    result = evaluate(sources(cohort, images=cohort / "raw"))
    assert result.notices == ("1 person has no image and is not pictured: sub-1",)
    assert {card.person for card in result.cards} == {"sub-2"}
    assert result.is_complete


def test_settings_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="extent"):
        EvaluationSettings(extent=0.0)


@pytest.mark.parametrize("name", RULES)
def test_every_rule_runs_on_files(name, cohort):
    result = evaluate(sources(cohort), EvaluationSettings(rule=RULES[name]))
    assert result.cohort.rule.name == name
