"""Alignment: a phantom that was moved is brought back; what cannot be is refused."""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name its documentation uses
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from deepmir.config import PreprocessConfig
from deepmir.errors import GeometryError, InputError
from deepmir.geometry import Grid
from deepmir.preprocessing.register import (
    align,
    from_one_acquisition,
    normalised_mutual_information,
    overlap,
    register_rigid,
)
from deepmir.preprocessing.resample import resample
from deepmir.volume import Modality, Volume

CONFIG = PreprocessConfig()
EVERYWHERE = np.ones((4, 5, 6), dtype=bool)


def turn(angle_deg: float, shift_mm: tuple[float, float, float]) -> np.ndarray:
    """Rigid motion of scanner space about its origin."""
    angle = np.radians(angle_deg)
    motion = np.eye(4)
    motion[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    motion[:3, 3] = shift_mm
    return motion


@pytest.fixture
def person(phantom_person):
    return phantom_person((40, 44, 30), (2.0, 2.2, 2.5), radius_mm=6)


def moved(volume: Volume, motion: np.ndarray) -> Volume:
    """Return the same voxels where the head lay after a motion."""
    return replace(volume, affine=motion @ volume.affine)


# ---- rigid registration ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("angle_deg", "shift_mm"), [(0, (4, -3, 5)), (8, (2, 1, 0)), (-12, (9, 0, -6))]
)
def test_a_moved_t2w_is_brought_back(person, angle_deg, shift_mm):
    t2w, swi = person.scans.t2w, person.scans.swi
    fit = register_rigid(moved(t2w, turn(angle_deg, shift_mm)), swi, from_centre=False)
    assert fit.improved
    assert fit.rotation_deg == pytest.approx(abs(angle_deg), abs=1)
    # the phantom's centre is the scanner's: there the motion is its shift
    assert fit.translation_mm == pytest.approx(np.linalg.norm(shift_mm), abs=0.5)
    back = align(moved(t2w, turn(angle_deg, shift_mm)), swi, CONFIG).volume.data
    inner = ndimage.binary_erosion(person.brain, iterations=4)
    assert np.corrcoef(back[inner], t2w.data[inner])[0, 1] > 0.9


def test_registration_is_the_same_bit_for_bit(person):
    scan = moved(person.scans.t2w, turn(5, (3, 2, 1)))
    first, second = (align(scan, person.scans.swi, CONFIG).volume.data for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_registration_is_never_worse_than_the_affines(person):
    fit = register_rigid(person.scans.t2w, person.scans.t2w, from_centre=False)
    assert fit.quality >= fit.quality_before
    assert fit.translation_mm < 0.1
    assert fit.rotation_deg < 0.1


def test_a_scan_far_away_starts_from_the_centres(person):
    far = moved(person.scans.t2w, turn(0, (300, -200, 400)))
    result = align(far, person.scans.swi, CONFIG)
    assert result.alignment.method == "rigid"
    assert np.corrcoef(result.volume.data.ravel(), person.scans.t2w.data.ravel())[0, 1] > 0.9


def test_flips_and_permutations_of_the_file_change_nothing(person):
    t2w = moved(person.scans.t2w, turn(6, (2, 2, 1)))
    order = np.eye(4)[:, [2, 0, 1, 3]]
    flip = np.diag([1.0, -1, 1, 1])
    flip[1, 3] = t2w.data.shape[0] - 1
    other = replace(
        t2w, data=t2w.data.transpose(2, 0, 1)[:, ::-1], affine=t2w.affine @ order @ flip
    )
    here, there = (align(scan, person.scans.swi, CONFIG).volume.data for scan in (t2w, other))
    assert np.corrcoef(here.ravel(), there.ravel())[0, 1] > 0.99


def test_all_samples_outside_leave_the_start():
    rng = np.random.default_rng(0)
    fixed, moving = (
        Volume(rng.random((16, 17, 18)).astype(np.float32), np.eye(4), Modality.SWI) for _ in "ab"
    )
    moving = moved(moving, turn(0, (900, 0, 0)))
    fit = register_rigid(moving, fixed, from_centre=False)
    assert not fit.improved
    assert fit.transform.GetParameters() == sitk.Euler3DTransform().GetParameters()


# ---- which way a scan is taken ---------------------------------------------------------------


def test_a_chimap_on_the_same_grid_is_left_as_it_is(person):
    result = align(person.scans.chimap, person.scans.swi, CONFIG)
    assert result.alignment.method == "identity"
    assert np.array_equal(result.volume.data, person.scans.chimap.data)


def test_a_cropped_chimap_of_the_same_acquisition_goes_through_the_affines(person):
    chimap = person.scans.chimap
    corner = np.eye(4)
    corner[:3, 3] = [3, 4, 2]
    crop = replace(chimap, data=chimap.data[3:-3, 4:-2, 2:-1], affine=chimap.affine @ corner)
    result = align(crop, person.scans.swi, CONFIG)
    assert result.alignment.method == "affine"
    assert result.volume.data[3:-3, 4:-2, 2:-1] == pytest.approx(crop.data, abs=1e-5)
    assert not result.volume.data[:2].any()


def test_a_chimap_of_another_grid_stays_where_its_head_is(person):
    chimap = person.scans.chimap
    tilted = Grid((42, 46, 36), turn(12, (1, 0, 0)) @ chimap.affine @ np.diag([0.9, 1, 0.9, 1]))
    there = resample(chimap.data, chimap.affine, tilted)
    result = align(replace(chimap, data=there, affine=tilted.affine), person.scans.swi, CONFIG)
    assert result.alignment.translation_mm < 1
    assert result.alignment.rotation_deg < 2
    inner = ndimage.binary_erosion(person.brain, iterations=5)
    assert np.corrcoef(result.volume.data[inner], chimap.data[inner])[0, 1] > 0.8


def test_the_config_can_trust_the_affines(person):
    shifted = moved(person.scans.t2w, turn(0, (4, 0, 0)))
    result = align(shifted, person.scans.swi, PreprocessConfig(register_t2w=False))
    assert result.alignment.method == "affine"
    np.testing.assert_allclose(result.volume.data[2:], person.scans.t2w.data[:-2], atol=1e-3)


def test_the_result_lies_on_the_reference_and_the_input_is_left_alone(person):
    before = person.scans.t2w.data.copy()
    result = align(moved(person.scans.t2w, turn(3, (1, 1, 1))), person.scans.swi, CONFIG)
    assert result.volume.grid.matches(person.scans.swi.grid)
    assert result.volume.modality is Modality.T2W
    assert np.array_equal(person.scans.t2w.data, before)


# ---- refusals --------------------------------------------------------------------------------


@pytest.fixture
def noise(person):
    values = np.random.default_rng(5).random(person.scans.t2w.data.shape).astype(np.float32)
    return replace(person.scans.t2w, data=values, name="noise.nii")


def test_a_poor_registration_is_noticed_by_name(person, noise):
    result = align(noise, person.scans.swi, CONFIG)
    assert result.alignment.poor
    assert result.alignment.quality < CONFIG.min_registration_quality
    assert "noise.nii" in result.notices[0].message


def test_a_poor_registration_can_be_refused(person, noise):
    with pytest.raises(InputError, match=r"noise\.nii.* is poor"):
        align(noise, person.scans.swi, PreprocessConfig(refuse_poor_registration=True))


def test_a_good_registration_is_not_called_poor(person):
    result = align(moved(person.scans.t2w, turn(3, (1, 1, 1))), person.scans.swi, CONFIG)
    assert not result.alignment.poor
    assert result.notices == ()


def test_scans_apart_that_are_nothing_alike_are_refused(person, noise):
    with pytest.raises(GeometryError, match=r"noise\.nii.*do not overlap"):
        align(moved(noise, turn(0, (500, 0, 0))), person.scans.swi, CONFIG)


def test_a_chimap_apart_from_the_swi_is_refused(person):
    far = moved(person.scans.chimap, turn(0, (500, 0, 0)))
    with pytest.raises(GeometryError, match="do not overlap in scanner space"):
        align(far, person.scans.swi, CONFIG)


def test_trusted_affines_that_do_not_overlap_are_refused(person):
    far = moved(person.scans.t2w, turn(0, (500, 0, 0)))
    with pytest.raises(GeometryError, match="500 mm apart"):
        align(far, person.scans.swi, PreprocessConfig(register_t2w=False))


# ---- grids and quality -----------------------------------------------------------------------


def test_half_a_field_of_view_overlaps_by_half():
    here = Grid((24, 24, 24), np.eye(4))
    there = Grid((24, 24, 24), turn(0, (12, 0, 0)))
    assert overlap(here, there) == pytest.approx(0.5)
    assert overlap(there, here) == pytest.approx(0.5)


def test_a_small_field_of_view_inside_a_large_one_overlaps_wholly():
    assert overlap(Grid((30, 30, 30), np.eye(4)), Grid((4, 5, 6), turn(20, (12, 9, 8)))) == 1


@pytest.mark.parametrize(
    ("affine", "same"),
    [
        (turn(0, (3, 0, 0)), True),
        (turn(0.5, (0, 0, 0)), True),
        (turn(3, (0, 0, 0)), False),
        (turn(0, (16, 0, 0)), False),
        (np.diag([1.05, 1, 1, 1]), True),
        (np.diag([1.0, 1, 1.5, 1]), False),
        (np.diag([-1.0, 1, 1, 1]), False),
    ],
)
def test_what_counts_as_one_acquisition(affine, same):
    assert from_one_acquisition(Grid((24, 24, 24), np.eye(4)), Grid((24, 24, 24), affine)) is same


def test_mutual_information_of_unrelated_images_is_small():
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 60, 60, 60)).astype(np.float32)
    where = np.ones(first.shape, dtype=bool)
    assert normalised_mutual_information(first, second, where) < 0.01
    assert normalised_mutual_information(first, second, ~where) == 0
    assert normalised_mutual_information(first * 0, second * 0, where) == 0


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_mutual_information_is_symmetric_and_bounded(seed):
    first, second = np.random.default_rng(seed).random((2, 4, 5, 6)).astype(np.float32)
    there = normalised_mutual_information(second, first, EVERYWHERE)
    assert normalised_mutual_information(first, second, EVERYWHERE) == pytest.approx(there)
    assert 0 <= there <= 1
    assert normalised_mutual_information(first, first, EVERYWHERE) == pytest.approx(1)
