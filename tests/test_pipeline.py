"""The whole flow for one person, with the tiny network whose answers are known."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image

import deepmir
from deepmir.config import Config, LesionConfig, SegmentConfig
from deepmir.errors import ConfigError, GeometryError, InputError, OutputError, UnitError
from deepmir.io.tables import read_table
from deepmir.labels import Finding
from deepmir.pipeline import PersonScans, modality_notices
from deepmir.volume import Modality

OUTPUT_TREE = """\
.bidsignore
README.md
dataset_description.json
desc-findings_dseg.tsv
desc-regions_dseg.tsv
sub-01.html
sub-01/anat/sub-01_desc-CALCIFICATION_probseg.json
sub-01/anat/sub-01_desc-CALCIFICATION_probseg.nii.gz
sub-01/anat/sub-01_desc-CMB_probseg.json
sub-01/anat/sub-01_desc-CMB_probseg.nii.gz
sub-01/anat/sub-01_desc-IRON_probseg.json
sub-01/anat/sub-01_desc-IRON_probseg.nii.gz
sub-01/anat/sub-01_desc-brain_mask.json
sub-01/anat/sub-01_desc-brain_mask.nii.gz
sub-01/anat/sub-01_desc-findings_dseg.json
sub-01/anat/sub-01_desc-findings_dseg.nii.gz
sub-01/anat/sub-01_desc-lesions.json
sub-01/anat/sub-01_desc-lesions.tsv
sub-01/anat/sub-01_desc-mars.json
sub-01/anat/sub-01_desc-mars.tsv
sub-01/anat/sub-01_desc-provenance.json
sub-01/anat/sub-01_desc-regions_dseg.json
sub-01/anat/sub-01_desc-regions_dseg.nii.gz
""".splitlines()


@pytest.fixture(scope="module")
def result(scan_files, tiny_weights):
    return deepmir.segment(
        swi=scan_files["swi"], qsm=scan_files["qsm"], t2w=scan_files["t2w"], weights=tiny_weights
    )


@pytest.fixture(scope="module")
def written(result, tmp_path_factory):
    out = tmp_path_factory.mktemp("written") / "out"
    deepmir.write_result(result, out)
    return out


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def truth_of(scan_files):
    return nib.load(scan_files["truth"]).get_fdata().astype(np.uint8)


# ---- known answers ---------------------------------------------------------


def test_one_finding_of_each_kind_is_found_where_it_is(result, scan_files):
    assert [lesion.finding for lesion in result.lesions] == list(Finding)
    truth = truth_of(scan_files)
    for finding in Finding:
        overlap = (result.findings() == finding) & (truth == finding)
        assert overlap.sum() > 0.8 * (truth == finding).sum()


def test_counts_places_and_signs_agree_with_the_person(result):
    cmb, iron, calcification = result.lesions
    assert (result.summary.cmb, result.summary.iron, result.summary.calcification) == (1, 1, 1)
    assert cmb.region_name == "left frontal"
    assert iron.region_name == "right pallidum"
    assert iron.counted
    assert cmb.mean_chi_ppm > 0 > calcification.mean_chi_ppm


def test_output_tree_is_the_committed_one(written):
    assert tree(written) == OUTPUT_TREE


def test_maps_lie_on_the_reference_scan(written, scan_files, result):
    swi = nib.load(scan_files["swi"])
    for path in written.rglob("*.nii.gz"):
        image = nib.load(path)
        assert image.shape == swi.shape
        np.testing.assert_allclose(image.affine, swi.affine, atol=1e-4)
    dseg = nib.load(written / result.outputs.findings)
    np.testing.assert_array_equal(np.asarray(dseg.dataobj), result.findings())


def test_lesion_table_says_what_the_lesions_say(written, result):
    table = read_table(written / result.outputs.lesions)
    assert table.column("finding") == tuple(finding.name for finding in Finding)
    assert [float(x) for x in table.column("x_mm")] == pytest.approx(
        [lesion.centroid_mm[0] for lesion in result.lesions], abs=0.01
    )
    assert table.column("exceeds_10mm") == ("false",) * 3
    dictionary = json.loads((written / result.outputs.lesions).with_suffix(".json").read_text())
    assert tuple(dictionary) == table.columns


def test_provenance_holds_inputs_settings_stages_and_memory(written, result, scan_files):
    record = json.loads((written / result.outputs.provenance).read_text())
    assert [file["role"] for file in record["inputs"]] == ["swi", "Chimap", "T2w"]
    assert record["inputs"][0]["path"] == str(scan_files["swi"])
    assert record["config"]["segment"]["thresholds"] == dict.fromkeys(Finding.__members__, 0.5)
    assert record["weights"]["name"] == "tiny"
    stages = [stage["stage"] for stage in record["stages"]]
    assert stages == ["read", "preprocess", "segment", "lesions", "write", "report"]
    assert record["peak_memory_bytes"] > 1e7


def test_report_is_one_page_that_needs_no_network(written, result):
    page = (written / result.outputs.report).read_text(encoding="utf-8")
    assert "sub-01" in page
    assert "research use only" in page.lower()
    assert 'src="http' not in page
    assert "<link" not in page


# ---- subsets ---------------------------------------------------------------


def test_t2w_alone_gives_regions_and_no_count(scan_files, tiny_weights, tmp_path):
    result = deepmir.segment(t2w=scan_files["t2w"], weights=tiny_weights)
    assert result.summary.cmb is None
    assert result.summary.iron is None
    assert result.lesions == ()
    assert any("need SWI or QSM" in notice.message for notice in result.notices)
    deepmir.write_result(result, tmp_path)
    assert (tmp_path / result.outputs.regions).exists()
    assert not (tmp_path / result.outputs.findings).exists()
    assert not (tmp_path / result.outputs.lesions).exists()
    mars = read_table(tmp_path / result.outputs.mars)
    assert set(mars.column("total")) == {None}


def test_swi_alone_tells_no_calcification_and_nothing_definite(scan_files, tiny_weights):
    result = deepmir.segment(swi=scan_files["swi"], weights=tiny_weights)
    assert result.summary.calcification is None
    assert result.summary.cmb >= 1
    assert result.summary.cmb_definite == 0
    assert any("SWI alone" in notice.message for notice in result.notices)


def test_qsm_alone_works_and_says_where_sizes_come_from(scan_files, tiny_weights):
    result = deepmir.segment(qsm=scan_files["qsm"], weights=tiny_weights)
    assert (result.summary.cmb, result.summary.calcification) == (1, 1)
    assert all(lesion.swi_contrast is None for lesion in result.lesions)
    assert any("is that on QSM" in notice.message for notice in result.notices)


def test_the_sidecar_of_the_qsm_says_its_unit(scan_files, tiny_weights, tmp_path):
    image = nib.load(scan_files["qsm"])
    strong = Nifti1Image((image.get_fdata() * 20).astype(np.float32), image.affine)
    nib.save(strong, tmp_path / "sub-01_Chimap.nii.gz")
    given = {"qsm": tmp_path / "sub-01_Chimap.nii.gz", "weights": tiny_weights}
    with pytest.raises(UnitError):
        deepmir.segment(**given)
    (tmp_path / "sub-01_Chimap.json").write_text('{"Units": "ppm"}')
    notices = deepmir.segment(**given).notices
    assert any("taken as ppm" in notice.message for notice in notices)


@pytest.mark.parametrize(
    ("present", "words"),
    [
        ((True, False, False), "T2w alone"),
        ((False, True, False), "SWI alone"),
        ((True, True, False), "without QSM"),
        ((False, False, True), "without SWI"),
        ((True, False, True), "without SWI"),
    ],
)
def test_what_cannot_be_told_is_said(present, words):
    (notice,) = modality_notices(present)
    assert words in notice.message


@pytest.mark.parametrize("t2w", [True, False])
def test_nothing_is_said_where_all_can_be_told(t2w):
    assert modality_notices((t2w, True, True)) == ()


# ---- laws ------------------------------------------------------------------


def test_same_input_same_bytes(written, scan_files, tiny_weights, tmp_path):
    again = deepmir.segment(
        swi=scan_files["swi"], qsm=scan_files["qsm"], t2w=scan_files["t2w"], weights=tiny_weights
    )
    deepmir.write_result(again, tmp_path)
    for name in OUTPUT_TREE:
        if not name.endswith(("provenance.json", ".html")):  # these hold times
            assert (tmp_path / name).read_bytes() == (written / name).read_bytes(), name


@pytest.mark.parametrize("axes", ["LAS", "PIR"])
def test_storage_order_changes_nothing(axes, result, scan_files, tiny_weights, tmp_path):
    files = {}
    for name in ("swi", "qsm", "t2w"):
        image = nib.load(scan_files[name])
        wanted = nib.orientations.axcodes2ornt(axes)
        turned = image.as_reoriented(
            nib.orientations.ornt_transform(nib.io_orientation(image.affine), wanted)
        )
        files[name] = tmp_path / scan_files[name].name
        turned.to_filename(files[name])
    turned_result = deepmir.segment(**files, weights=tiny_weights)
    deepmir.write_result(turned_result, tmp_path / "out")
    dseg = nib.load(tmp_path / "out" / turned_result.outputs.findings)
    assert dseg.shape == nib.load(files["swi"]).shape
    np.testing.assert_array_equal(
        np.asarray(nib.as_closest_canonical(dseg).dataobj), result.findings()
    )


def test_images_in_memory_give_what_files_give(result, scan_files, tiny_weights):
    volumes = {
        "swi": deepmir.read_volume(scan_files["swi"], Modality.SWI)[0],
        "qsm": deepmir.read_volume(scan_files["qsm"], Modality.CHIMAP)[0],
        "t2w": deepmir.read_volume(scan_files["t2w"], Modality.T2W)[0],
    }
    copies = {name: volume.data.copy() for name, volume in volumes.items()}
    from_memory = deepmir.segment(**volumes, weights=tiny_weights)
    np.testing.assert_array_equal(from_memory.findings(), result.findings())
    assert from_memory.subject == "01"
    for name, volume in volumes.items():
        np.testing.assert_array_equal(volume.data, copies[name])


def test_measuring_what_was_found_finds_the_same(result, written, scan_files, tiny_weights):
    measured = deepmir.measure(
        written / result.outputs.findings,
        swi=scan_files["swi"],
        qsm=scan_files["qsm"],
        t2w=scan_files["t2w"],
        weights=tiny_weights,
    )
    assert measured.probabilities is None
    for by_hand, by_network in zip(measured.lesions, result.lesions, strict=True):
        assert by_hand.probability is None
        assert by_hand.certainty.value == "definite"
        assert by_hand == replace(
            by_network,
            probability=None,
            certainty=by_hand.certainty,
        )


def test_progress_names_the_stages_in_order(scan_files, tiny_weights):
    told = []
    deepmir.segment(
        swi=scan_files["swi"], weights=tiny_weights, progress=lambda *what: told.append(what)
    )
    stages = list(dict.fromkeys(stage for stage, _ in told))
    assert stages == ["read", "preprocess", "segment", "lesions"]
    assert all(0 <= fraction <= 1 for _, fraction in told)


# ---- options ---------------------------------------------------------------


def test_settings_reach_their_stages(scan_files, tiny_weights):
    config = Config(
        segment=SegmentConfig(thresholds={"CMB": 1.0}), lesions=LesionConfig(min_volume_mm3=60.0)
    )
    result = deepmir.segment(
        swi=scan_files["swi"], qsm=scan_files["qsm"], config=config, weights=tiny_weights
    )
    assert result.summary.cmb == 0
    assert all(lesion.volume_mm3 >= 60 for lesion in result.lesions)
    assert result.provenance.config.segment.thresholds["CMB"] == 1.0


def test_own_brain_mask_replaces_the_networks(scan_files, tiny_weights):
    mask = nib.load(scan_files["mask"]).get_fdata() > 0
    mask[: mask.shape[0] // 2] = False
    result = deepmir.segment(
        swi=scan_files["swi"], qsm=scan_files["qsm"], brain_mask=mask, weights=tiny_weights
    )
    np.testing.assert_array_equal(result.prepared.brain_mask, mask)
    assert not result.findings()[: mask.shape[0] // 2].any()


def test_probabilities_may_be_left_out(result, tmp_path):
    deepmir.write_result(result, tmp_path, save_probabilities=False)
    assert not list(tmp_path.rglob("*probseg*"))


def test_label_comes_from_the_option_else_from_the_first_name():
    assert PersonScans(swi="sub-07_swi.nii.gz", subject="sub-x1").label == "x1"
    assert PersonScans(qsm="sub-07_Chimap.nii.gz").label == "07"
    with pytest.raises(InputError, match="--subject"):
        _ = PersonScans(swi="a.nii", subject="a b").label


# ---- refusals --------------------------------------------------------------


def test_no_scan_is_refused(tiny_weights):
    with pytest.raises(InputError, match="no scan was given"):
        deepmir.segment(weights=tiny_weights)


def test_measure_needs_a_susceptibility_scan(scan_files, tiny_weights):
    with pytest.raises(InputError, match="--swi or --qsm"):
        deepmir.measure(scan_files["truth"], t2w=scan_files["t2w"], weights=tiny_weights)


def test_measure_refuses_labels_of_another_grid(scan_files, tiny_weights, tmp_path):
    moved = tmp_path / "moved.nii.gz"
    image = nib.load(scan_files["truth"])
    affine = image.affine.copy()
    affine[0, 3] += 5
    Nifti1Image(np.asarray(image.dataobj), affine).to_filename(moved)
    with pytest.raises(GeometryError, match=r"moved\.nii\.gz"):
        deepmir.measure(moved, swi=scan_files["swi"], weights=tiny_weights)


def test_measure_refuses_unknown_labels(scan_files, tiny_weights):
    labels, _ = deepmir.read_volume(scan_files["qsm"], Modality.DSEG)
    wrong = replace(labels, data=np.full(labels.data.shape, 9, dtype=np.int32))
    with pytest.raises(InputError, match="9"):
        deepmir.measure(wrong, swi=scan_files["swi"], weights=tiny_weights)


def test_unknown_finding_in_thresholds_is_refused_before_reading(tiny_weights):
    config = Config(segment=SegmentConfig(thresholds={"VEIN": 0.5}))
    with pytest.raises(ConfigError, match="VEIN"):
        deepmir.segment(swi="absent.nii", config=config, weights=tiny_weights)


def test_an_earlier_result_is_refused_or_replaced_as_a_whole(result, tmp_path):
    deepmir.write_result(result, tmp_path)
    with pytest.raises(OutputError, match="--overwrite"):
        deepmir.write_result(result, tmp_path)
    deepmir.write_result(result, tmp_path, overwrite=True, save_probabilities=False)
    assert not list(tmp_path.rglob("*probseg*"))


def test_a_failing_write_leaves_the_earlier_result(result, tmp_path, monkeypatch):
    deepmir.write_result(result, tmp_path)
    before = tree(tmp_path)

    def fail(_view):
        raise RuntimeError("no page")

    monkeypatch.setattr("deepmir.result.render_subject", fail)
    with pytest.raises(RuntimeError, match="no page"):
        deepmir.write_result(result, tmp_path, overwrite=True)
    assert tree(tmp_path) == before
