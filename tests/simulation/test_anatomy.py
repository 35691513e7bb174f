"""Anatomy: sides, regions and nuclei of a small phantom head, the atlas, and refusals."""

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deepmir.errors import GeometryError, InputError, MissingPartError
from deepmir.labels import ALL_REGION_NUMBERS
from deepmir.simulation import anatomy as anatomy_module
from deepmir.simulation.anatomy import (
    BONE,
    SKIN,
    Anatomy,
    assign_regions,
    brain_of,
    built_in_anatomy,
    complete_anatomy,
    fill_islands,
    load_anatomy,
    merge_odd_labels,
    place_nuclei,
    read_anatomy,
    save_anatomy,
)
from deepmir.simulation.atlas import NUCLEI, Atlas, class_maps, fit_warp, load_atlas
from deepmir.simulation.vessels import ARTERY, SINUS

SHAPE = (44, 52, 40)
CENTRE = np.array([21.5, 27.0, 22.0])
# structure: centre in mm from the phantom's middle (left side), half size in mm, its two numbers
BLOCKS = {
    "ventricle": ((-2, 0, 4), (1.6, 7, 2), (4, 43)),
    "thalamus": ((-4, -4, -1), (2.1, 3, 2.5), (10, 49)),
    "caudate": ((-4, 6, 1), (1.6, 2.5, 3), (11, 50)),
    "putamen": ((-10, 2, -1), (1.6, 4, 3), (12, 51)),
    "pallidum": ((-7.5, 2, -1), (1.1, 3, 2), (13, 52)),
    "hippocampus": ((-10, -4, -6), (2.1, 4, 1.5), (17, 53)),
    "cerebellum": ((-5, -12, -12), (5, 5, 3.5), (8, 47)),
    "cerebellar white": ((-5, -12, -12), (2.5, 2.5, 1.6), (7, 46)),
}


def phantom_head(shift: tuple[int, int, int] = (0, 0, 0)) -> Atlas:
    """Labels and regions of a made-up little brain; `shift` moves it by whole voxels."""
    i, j, k = np.indices(SHAPE)
    mm = np.stack([i, j, k]) - (CENTRE + shift)[:, None, None, None]
    right = mm[0] > 0
    radius = np.sqrt(((mm / np.array([17, 21, 14])[:, None, None, None]) ** 2).sum(axis=0))
    labels = np.zeros(SHAPE, dtype=np.uint16)
    labels[radius < 1] = np.where(right, 42, 3)[radius < 1]
    labels[radius < 0.8] = np.where(right, 41, 2)[radius < 0.8]
    regions = np.where(mm[1] > 0, 9, 12) + np.where(right, 200, 100)
    # Internal capsule: a plate beside the thalamus, in the white matter.
    capsule = (abs(abs(mm[0]) - 7) < 1.5) & (abs(mm[1] + 5) < 4) & (abs(mm[2]) < 4)
    regions[capsule] = np.where(right, 205, 105)[capsule]
    for centre, half, numbers in BLOCKS.values():
        for sign, number in zip((1, -1), numbers, strict=True):
            place = np.multiply(centre, (sign, 1, 1))[:, None, None, None]
            inside = (abs(mm - place) <= np.array(half)[:, None, None, None]).all(axis=0)
            labels[inside] = number
    stem = (mm[0] ** 2 + (mm[1] + 6) ** 2 < 10) & (mm[2] < -4) & (mm[2] > -15)
    labels[stem] = 16
    regions[stem] = 1
    affine = np.eye(4)
    affine[:3, 3] = -CENTRE
    return Atlas(labels, np.where(labels > 0, regions, 0).astype(np.uint8), affine)


@pytest.fixture(scope="module")
def phantom() -> Atlas:
    return phantom_head()


@pytest.fixture(scope="module")
def finished(phantom: Atlas) -> Anatomy:
    moved = phantom_head((2, -1, 1))
    return complete_anatomy(moved.labels, moved.affine, name="phantom", atlas=phantom)


def write(path: Path, data: np.ndarray, affine: np.ndarray, orientation: str = "RAS") -> Path:
    """Store an image in any orientation; what it shows in scanner space stays the same."""
    image = nib.Nifti1Image(data, affine)
    start = nib.orientations.io_orientation(affine)
    turn = nib.orientations.ornt_transform(start, nib.orientations.axcodes2ornt(orientation))
    nib.save(image.as_reoriented(turn), path)
    return path


def mean_x_mm(mask: np.ndarray, affine: np.ndarray) -> float:
    return float((np.argwhere(mask) @ affine[:3, :3].T + affine[:3, 3]).mean(axis=0)[0])


# ---- known answers ---------------------------------------------------------


def test_the_nuclei_are_the_heads_own(finished):
    for base, numbers in ((21, (11, 50)), (22, (12, 51)), (23, (13, 52)), (4, (10, 49))):
        for offset, number in zip((100, 200), numbers, strict=True):
            assert np.array_equal(finished.regions == base + offset, finished.labels == number)


def test_left_lies_left_in_scanner_space(finished):
    for number in sorted(set(finished.regions[finished.regions > 200].tolist())):
        left = mean_x_mm(finished.regions == number - 100, finished.affine)
        assert left < mean_x_mm(finished.regions == number, finished.affine)


def test_the_atlas_decides_within_white_matter(finished):
    truth = phantom_head((2, -1, 1))
    for number in (105, 205):
        wanted = (truth.regions == number) & np.isin(truth.labels, (2, 41))
        found = finished.regions == number
        assert 2 * (wanted & found).sum() / (wanted.sum() + found.sum()) > 0.7
        assert np.isin(finished.labels[found], (2, 41)).all()


def test_ventricles_are_brain_without_region(finished):
    ventricles = np.isin(finished.labels, (4, 43))
    assert ventricles.any()
    assert finished.brain[ventricles].all()
    assert not finished.regions[ventricles].any()
    assert not finished.regions[~finished.brain].any()


def test_the_same_head_gives_the_same_map_again(phantom, finished):
    moved = phantom_head((2, -1, 1))
    again = complete_anatomy(moved.labels, moved.affine, name="phantom", atlas=phantom)
    assert np.array_equal(again.regions, finished.regions)


def test_a_shift_is_found(phantom):
    moved = phantom_head((3, -2, 1))
    warp = fit_warp(
        class_maps(moved.labels, moved.affine), class_maps(phantom.labels, phantom.affine)
    )
    assert (warp.affine @ [3, -2, 1, 1])[:3] == pytest.approx([0, 0, 0], abs=1.0)


def test_odd_and_finer_numbers_are_merged():
    labels = np.zeros((5, 4, 3), dtype=np.uint16)
    labels[0], labels[1], labels[2], labels[3], labels[4] = 4, 136, 2, 1015, 515
    merged = merge_odd_labels(labels)
    assert set(np.unique(merged).tolist()) == {2, 3, 4, 515}
    assert np.isin(merged[1], (2, 4)).all()
    assert labels[1, 0, 0] == 136


def test_nuclei_are_placed_at_home_only():
    labels = np.array([16, 28, 2, 7, 46, 10], dtype=np.uint16).reshape(6, 1, 1)
    nigra = place_nuclei(labels, np.full_like(labels, 1001))
    assert nigra.ravel().tolist() == [1001, 1001, 2, 7, 46, 10]
    dentate = place_nuclei(labels, np.full_like(labels, 1006))
    assert dentate.ravel().tolist() == [16, 28, 2, 7, 1006, 10]


def test_cisterns_between_parts_belong_to_the_brain_and_the_neck_does_not():
    labels = np.full((30, 12, 12), 24, dtype=np.uint16)
    labels[8:12], labels[15:19] = 3, 42
    brain = brain_of(labels)
    assert brain[12:15, 5:7, 5:7].all()
    assert not brain[:7].any()
    assert not brain[20:].any()


def skull_with_csf():
    """CSF in a shell of bone and soft tissue, with air around it."""
    labels = np.zeros((32, 32, 32), dtype=np.uint16)
    labels[2:30, 2:30, 2:30] = 507
    labels[8:24, 8:24, 8:24] = BONE
    labels[10:22, 10:22, 10:22] = 24
    return labels


@pytest.mark.parametrize("number", [0, BONE, SKIN, 530])
def test_islands_inside_the_skull_take_what_is_around_them(number):
    whole = skull_with_csf()
    labels = whole.copy()
    labels[12, 12, 12] = labels[16:19, 15:18, 14:16] = number
    assert np.array_equal(fill_islands(labels), whole)


def test_air_in_the_brains_coverings_is_filled_even_where_it_touches_bone():
    whole = skull_with_csf()
    labels = whole.copy()
    labels[12:18, 12:15, 10:13] = 0  # lies on the bone by one of its six sides
    assert np.isin(fill_islands(labels)[12:18, 12:15, 10:13], (24, BONE)).all()


@pytest.mark.parametrize("number", [ARTERY, SINUS])
def test_drops_of_blood_take_what_is_around_them_and_vessels_stay(number):
    whole = skull_with_csf()
    for n in range(60):
        whole[10 + n % 12, 10 + n // 12, 10] = number  # a vessel on the bone
    labels = whole.copy()
    labels[14:17, 14:17, 14:20] = number  # 54 mm³
    labels[21, 21, 21] = number
    assert np.isin(fill_islands(labels)[21, 21, 21], (24, BONE))
    labels[21, 21, 21] = 24
    assert np.array_equal(fill_islands(labels), whole)


def test_sinuses_and_the_skull_stay_as_they_are():
    labels = skull_with_csf()
    labels[3:7, 14:18, 14:18] = 0  # a sinus in soft tissue
    labels[9:15, 12, 12] = BONE  # a spine of the skull
    assert np.array_equal(fill_islands(labels), labels)


# ---- reading ---------------------------------------------------------------


@pytest.mark.parametrize("orientation", ["RAS", "LIA", "PSR"])
def test_any_orientation_gives_the_same_head(tmp_path, phantom, orientation):
    path = write(
        tmp_path / "head.nii.gz", phantom.labels.astype(np.int32), phantom.affine, orientation
    )
    head = read_anatomy(path)
    assert nib.aff2axcodes(head.affine) == ("R", "A", "S")
    assert set(np.unique(head.regions).tolist()) <= {0, *ALL_REGION_NUMBERS}
    assert mean_x_mm(head.labels == 2, head.affine) < -4
    assert mean_x_mm(head.labels == 41, head.affine) > 4
    assert {BONE, SKIN} < set(np.unique(head.labels).tolist())
    assert head.name == "head.nii.gz"


def test_voxels_of_any_size_become_millimetres(tmp_path, phantom):
    affine = phantom.affine @ np.diag([1, 1, 2, 1])
    fine = np.repeat(phantom.labels[:, :, ::2], 2, axis=0).astype(np.int16)
    path = write(tmp_path / "head.nii", fine, affine @ np.diag([0.5, 1, 1, 1]))
    head = read_anatomy(path)
    assert np.linalg.norm(head.affine[:3, :3], axis=0) == pytest.approx([1, 1, 1])
    assert (head.labels == 51).sum() == pytest.approx((phantom.labels == 51).sum(), rel=0.3)


def test_an_anatomy_survives_storing(tmp_path, finished):
    save_anatomy(finished, tmp_path / "new" / "head.npz")
    back = load_anatomy(tmp_path / "new" / "head.npz")
    assert np.array_equal(back.labels, finished.labels)
    assert np.array_equal(back.regions, finished.regions)
    assert np.array_equal(back.brain, finished.brain)
    assert back.grid.matches(finished.grid)
    assert back.name == "phantom"
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["head.npz"]


# ---- refusals --------------------------------------------------------------


def spoil_missing(phantom: Atlas) -> np.ndarray:
    return np.where(phantom.labels == 11, 2, phantom.labels).astype(np.int32)


def spoil_fraction(phantom: Atlas) -> np.ndarray:
    return phantom.labels.astype(np.float32) + 0.25


def spoil_sign(phantom: Atlas) -> np.ndarray:
    return phantom.labels.astype(np.int32) - 1


@pytest.mark.parametrize(
    ("spoil", "message"),
    [(spoil_missing, "number 11"), (spoil_fraction, "integers"), (spoil_sign, "integers")],
)
def test_what_is_no_label_map_is_refused(
    tmp_path, phantom, spoil: Callable[[Atlas], np.ndarray], message
):
    path = write(tmp_path / "bad.nii.gz", spoil(phantom), phantom.affine)
    with pytest.raises(InputError, match=message) as caught:
        read_anatomy(path)
    assert "bad.nii.gz" in str(caught.value)


def test_a_series_is_refused(tmp_path, phantom):
    series = np.stack([phantom.labels] * 2, axis=-1).astype(np.int16)
    nib.save(nib.Nifti1Image(series, phantom.affine), tmp_path / "series.nii")
    with pytest.raises(GeometryError, match=r"series\.nii"):
        read_anatomy(tmp_path / "series.nii")


def test_missing_and_unreadable_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        read_anatomy(tmp_path / "nowhere.nii.gz")
    (tmp_path / "text.nii.gz").write_text("no image", encoding="utf-8")
    with pytest.raises(InputError, match="text"):
        read_anatomy(tmp_path / "text.nii.gz")
    (tmp_path / "text.npz").write_text("no archive", encoding="utf-8")
    with pytest.raises(InputError, match=r"text\.npz"):
        load_anatomy(tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", labels=np.zeros(3))
    with pytest.raises(InputError, match=r"other\.npz"):
        load_anatomy(tmp_path / "other.npz")


def test_only_npz_is_written(tmp_path, finished):
    with pytest.raises(InputError, match="npz"):
        save_anatomy(finished, tmp_path / "head.nii.gz")


def test_no_brain_is_refused(phantom):
    with pytest.raises(InputError, match="no brain"):
        complete_anatomy(np.zeros(SHAPE, np.uint16), np.eye(4), name="x", atlas=phantom)


def test_too_few_structures_are_refused(phantom):
    labels = np.where(np.isin(phantom.labels, (10, 16)), phantom.labels, 0).astype(np.uint16)
    with pytest.raises(InputError, match="at least 8"):
        complete_anatomy(labels, np.eye(4), name="x", atlas=phantom)


def test_the_built_in_head_needs_nilearn(monkeypatch):
    monkeypatch.setattr(anatomy_module, "find_spec", lambda _: None)
    with pytest.raises(MissingPartError, match="nilearn"):
        built_in_anatomy()


def test_a_nilearn_without_template_is_named(monkeypatch, tmp_path):
    class Spec:
        origin = str(tmp_path / "__init__.py")

    monkeypatch.setattr(anatomy_module, "find_spec", lambda _: Spec)
    with pytest.raises(MissingPartError, match="mni_icbm152_t1"):
        built_in_anatomy()


# ---- properties ------------------------------------------------------------

numbers = st.sampled_from([0, 2, 3, 4, 7, 8, 10, 11, 12, 13, 16, 17, 24, 25, 28, 41, 42, 60, 515])
label_maps = hnp.arrays(np.uint16, (4, 5, 3), elements=numbers)
warped_maps = hnp.arrays(np.uint8, (4, 5, 3), elements=st.sampled_from([0, *ALL_REGION_NUMBERS]))


@given(label_maps, warped_maps)
@settings(max_examples=80, deadline=None)
def test_regions_come_from_the_table_and_keep_the_labels_side(labels, warped):
    before = labels.copy(), warped.copy()
    regions = assign_regions(labels, warped)
    assert set(np.unique(regions).tolist()) <= {0, *ALL_REGION_NUMBERS}
    assert not (regions[np.isin(labels, (2, 3, 7, 8, 10, 28))] > 200).any()
    right = regions[np.isin(labels, (41, 42, 60))]
    assert not ((right > 100) & (right < 200)).any()
    assert not regions[np.isin(labels, (0, 4, 24, 515))].any()
    assert np.array_equal(labels, before[0])
    assert np.array_equal(warped, before[1])


# ---- the package's own data ------------------------------------------------


def test_the_atlas_holds_every_region_and_nucleus():
    atlas = load_atlas()
    assert set(np.unique(atlas.regions).tolist()) == {0, *ALL_REGION_NUMBERS}
    assert set(NUCLEI) < set(np.unique(atlas.labels).tolist())
    assert mean_x_mm(atlas.labels == 1005, atlas.affine) == pytest.approx(-16, abs=2)
    assert mean_x_mm(atlas.labels == 1006, atlas.affine) == pytest.approx(16, abs=2)
    for left in (1001, 1003):
        assert mean_x_mm(atlas.labels == left, atlas.affine) < 0
        assert mean_x_mm(atlas.labels == left + 1, atlas.affine) > 0


def test_the_atlas_is_small_and_names_its_sources():
    folder = files("deepmir.simulation") / "data"
    assert len((folder / "atlas.nii.gz").read_bytes()) < 1_000_000
    text = json.loads((folder / "atlas.json").read_text(encoding="utf-8"))
    licences = [source["Licence"] for source in text["Sources"]]
    assert licences == ["CC-BY-4.0", "MIT", "ICBM notice", "none needed"]


def test_the_built_in_head_has_everything():
    head = built_in_anatomy()
    assert set(np.unique(head.regions).tolist()) == {0, *ALL_REGION_NUMBERS}
    assert {BONE, SKIN, 24, 4, 43, *NUCLEI} < set(np.unique(head.labels).tolist())
    for left, right in ((2, 41), (4, 43), (8, 47), (1001, 1002), (1005, 1006)):
        assert mean_x_mm(head.labels == left, head.affine) < -1
        assert mean_x_mm(head.labels == right, head.affine) > 1
    assert 1.2e6 < head.brain.sum() < 2.1e6
    assert not head.regions[~head.brain].any()
    assert not head.labels[0].any()


@pytest.mark.slow
@pytest.mark.shared
def test_a_real_head(shared_data):
    head = read_anatomy(shared_data / "anatomy_labels" / "anatomy_13.nii.gz")
    assert np.array_equal(fill_islands(head.labels), head.labels)
    assert set(np.unique(head.regions).tolist()) == {0, *ALL_REGION_NUMBERS}
    for number in NUCLEI:
        assert 100 < (head.labels == number).sum() < 1200
    for number in sorted(set(head.regions[head.regions > 200].tolist())):
        left = mean_x_mm(head.regions == number - 100, head.affine)
        assert left < 0 < mean_x_mm(head.regions == number, head.affine)
    assert np.isin(head.labels[head.regions % 100 == 5], (2, 41, 25, 57)).all()
