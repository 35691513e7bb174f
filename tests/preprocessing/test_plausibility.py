"""What an image is: real kinds pass, each impostor is refused by name."""

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from deepmir.errors import InputError
from deepmir.preprocessing.plausibility import (
    check_chimap,
    check_intensities,
    check_polarity,
    equal_slices_excess,
    negative_share,
    nucleus_contrast_ppm,
    phase_range_of,
)
from deepmir.preprocessing.units import to_ppm
from deepmir.volume import Modality, Volume

SPACING_MM = (1.0, 1.0, 2.0)
REAL = ["N001", "N002", "N003", "N007"]


def volume(data, modality=Modality.CHIMAP, name="sub-01_image.nii.gz") -> Volume:
    """Wrap an array under a name that the message must give."""
    return Volume(
        np.asarray(data, dtype=np.float32), np.diag([*SPACING_MM, 1.0]), modality, "", name
    )


@pytest.fixture
def brain():
    """Susceptibility of a textured brain, zero outside."""
    rng = np.random.default_rng(0)
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in (30, 32, 24)], indexing="ij")
    return rng.normal(0, 0.03, (30, 32, 24)) * (np.sum(np.square(axes), axis=0) < 0.9)


@pytest.fixture
def regions(brain):
    """Caudate, putamen and pallidum as blocks on both sides of the middle."""
    regions = np.zeros(brain.shape, dtype=np.uint8)
    for offset, side in ((100, slice(4, 10)), (200, slice(20, 26))):
        regions[side, 13:18, 9:12] = 22 + offset
        regions[side, 13:18, 12:14] = 21 + offset
        regions[side, 9:12, 9:14] = 23 + offset
    return regions


# ---- QSM -------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1, -1, 1000, 4096])
def test_a_susceptibility_map_passes_in_any_unit(brain, factor):
    check_chimap(volume(brain * factor), None)


def test_a_magnitude_is_no_susceptibility_map(brain):
    with pytest.raises(InputError, match=r"sub-01_image\.nii\.gz looks like a magnitude"):
        check_chimap(volume(np.abs(brain)), None)


def test_a_map_moved_to_positive_numbers_is_refused(brain):
    with pytest.raises(InputError, match=r"0\.0% of its brain is negative"):
        check_chimap(volume(np.where(brain == 0, 0, brain + 1)), None)


@pytest.mark.parametrize(("limit", "named"), [(np.pi, "π"), (4096, "4096"), (2048, "2048")])
def test_a_phase_is_no_susceptibility_map(brain, limit, named):
    phase = np.angle(np.exp(1j * brain * 100)) / np.pi * limit * (brain != 0)
    with pytest.raises(InputError, match=f"phase image.*±{named}"):
        check_chimap(volume(phase), None)


def test_a_map_clipped_at_a_phases_range_is_no_phase(brain):
    values = (brain * 4096)[brain != 0]
    values[:2] = -4096, 4096
    assert phase_range_of(values) is None


def test_a_given_mask_is_where_to_look(brain):
    inside = brain != 0
    with pytest.raises(InputError, match="magnitude"):
        check_chimap(volume(np.where(inside, np.abs(brain), -5)), inside)


# ---- polarity --------------------------------------------------------------------------------


def nuclei(regions, *, pallidum, striatum):
    """Susceptibility offset of the nuclei in ppm."""
    base = regions % 100
    return np.where(base == 23, pallidum, np.where(base > 0, striatum, 0))


def test_the_contrast_of_a_nucleus_is_measured_against_its_ring(brain, regions):
    chi = (brain + nuclei(regions, pallidum=0.1, striatum=0.04) + 0.5) * (brain != 0)
    found = nucleus_contrast_ppm(chi, regions, bases=(23,), spacing_mm=SPACING_MM)
    assert found == pytest.approx(0.1, abs=0.015)


@pytest.mark.parametrize(
    ("pallidum", "striatum"), [(0.1, 0.04), (0.0, 0.0), (-0.2, 0.04), (-0.01, -0.04)]
)
def test_normal_young_and_calcified_pallida_pass(brain, regions, pallidum, striatum):
    chi = brain + nuclei(regions, pallidum=pallidum, striatum=striatum)
    check_polarity(chi, regions, spacing_mm=SPACING_MM, name="map.nii")


def test_an_inverted_map_is_refused(brain, regions):
    chi = -(brain + nuclei(regions, pallidum=0.1, striatum=0.04))
    with pytest.raises(InputError, match=r"map\.nii is inverted.*multiply the map by -1"):
        check_polarity(chi, regions, spacing_mm=SPACING_MM, name="map.nii")


def test_without_nuclei_in_view_there_is_no_evidence(brain, regions):
    assert nucleus_contrast_ppm(brain, regions * 0, bases=(23,), spacing_mm=SPACING_MM) is None
    few = np.where(np.cumsum(regions == 123).reshape(regions.shape) < 9, regions, 0)
    assert nucleus_contrast_ppm(brain, few, bases=(23,), spacing_mm=SPACING_MM) is None
    check_polarity(-brain, regions * 0, spacing_mm=SPACING_MM, name="map.nii")


# ---- SWI and T2w -----------------------------------------------------------------------------


@pytest.fixture
def swi(brain):
    return np.where(brain == 0, 0, 1000 * (1 + brain))


@pytest.mark.parametrize("modality", [Modality.SWI, Modality.T2W])
def test_intensities_pass(swi, modality):
    assert check_intensities(volume(swi, modality)) == ()


@pytest.mark.parametrize("modality", [Modality.SWI, Modality.T2W])
def test_a_phase_or_susceptibility_map_holds_no_intensities(brain, modality):
    with pytest.raises(InputError, match=rf"sub-01_image\.nii\.gz.*{modality} scan has positive"):
        check_intensities(volume(brain, modality))


def test_a_few_negative_values_of_interpolation_are_no_harm(swi):
    swi[12, 12, 10:14] = -300
    assert 0 < negative_share(swi[swi != 0]) < 0.01
    check_intensities(volume(swi, Modality.SWI))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("n_slices", [2, 4, 8])
def test_a_minimum_projection_is_refused_along_any_axis(swi, axis, n_slices):
    projection = ndimage.minimum_filter1d(swi, n_slices, axis=axis)
    with pytest.raises(InputError, match="minimum-intensity projection"):
        check_intensities(volume(projection, Modality.SWI))


def test_neither_integers_nor_flat_phantoms_look_like_projections(swi):
    assert abs(equal_slices_excess(np.round(swi / 100))) < 0.1
    assert equal_slices_excess(np.ones((8, 9, 10))) == 0
    assert equal_slices_excess(np.zeros((8, 9, 10))) == 0


@pytest.mark.parametrize(
    ("name", "flagged"),
    [
        ("sub-01_T2starw.nii.gz", True),
        ("sub-01_echo-3_part-mag_MEGRE.nii.gz", True),
        ("sub-01_swi.nii.gz", False),
        ("/data/magnitude/sub-01_swi.nii.gz", False),
        ("greta_swi.nii", False),
    ],
)
def test_a_magnitude_in_place_of_swi_is_flagged_by_its_name(swi, name, flagged):
    notices = check_intensities(volume(swi, Modality.SWI, name))
    assert [name in notice.message for notice in notices] == [True] * flagged


# ---- real scans ------------------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.parametrize("person", REAL)
def test_real_maps_pass_and_inverted_ones_do_not(shared_data, person):
    folder = shared_data / "qsm_real"
    chi = nib.load(folder / "QSM" / f"{person}_QSM.nii.gz").get_fdata(dtype=np.float32)
    (path,) = folder.glob(f"Label/{person}_*.nii.gz")
    labels = np.asarray(nib.load(path).dataobj).astype(int)
    numbers = np.zeros(11, dtype=np.uint8)
    numbers[1:7] = 121, 221, 122, 222, 123, 223
    regions, spacing_mm = numbers[labels], (0.94, 0.94, 3.0)
    check_chimap(volume(chi), None)
    _, notices = to_ppm(volume(chi), brain=None)
    assert notices == ()
    check_polarity(chi, regions, spacing_mm=spacing_mm, name=person)
    with pytest.raises(InputError, match="inverted"):
        check_polarity(-chi, regions, spacing_mm=spacing_mm, name=person)
