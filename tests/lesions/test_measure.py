"""Measurements: known answers on one oblique, left-handed, anisotropic grid; refusals; laws."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmir.config import LesionConfig
from deepmir.errors import GeometryError, InputError
from deepmir.geometry import Grid
from deepmir.labels import Compartment, Finding, Side
from deepmir.lesions import Certainty, SizeClass, measure_lesions, size_class
from deepmir.volume import Modality, Scans, Volume

SHAPE = (26, 24, 11)
SPACING = (0.5, 0.75, 2.0)
CONFIG = LesionConfig(connectivity=26, min_volume_mm3=0.0, definite_probability=0.75)


def oblique() -> np.ndarray:
    c, s = np.cos(np.pi / 6), np.sin(np.pi / 6)
    out = np.eye(4)
    out[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.diag([-0.5, 0.75, 2.0])
    out[:3, 3] = [10, -20, 30]
    return out


def volume(modality: Modality, value: float = 100.0) -> Volume:
    data = np.full(SHAPE, value, dtype=np.float32)
    return Volume(data, oblique(), modality, name=f"sub-01_{modality}.nii.gz")


def both(swi: float = 100.0, chi: float = 0.02) -> Scans:
    return Scans(swi=volume(Modality.SWI, swi), chimap=volume(Modality.CHIMAP, chi))


def block(value: int = Finding.CMB) -> np.ndarray:
    findings = np.zeros(SHAPE, dtype=np.uint8)
    findings[12:14, 10:13, 5:7] = value
    return findings


def measure(findings, scans=None, *, regions=None, probabilities=None, config=CONFIG):
    return measure_lesions(
        findings,
        scans=scans or both(),
        regions=np.zeros(SHAPE, dtype=np.uint8) if regions is None else regions,
        probabilities=probabilities,
        config=config,
    ).lesions


# ---- size and place --------------------------------------------------------


def test_volume_uses_all_three_spacings():
    (lesion,) = measure(block())
    assert lesion.n_voxels == 12
    assert lesion.volume_mm3 == pytest.approx(12 * 0.5 * 0.75 * 2.0)
    assert lesion.diameter_mm == pytest.approx((6 * 9.0 / np.pi) ** (1 / 3))


def test_centroid_is_in_scanner_millimetres():
    (lesion,) = measure(block())
    assert lesion.centroid_mm == pytest.approx((oblique() @ [12.5, 11, 5.5, 1])[:3])


def test_centroid_voxel_is_counted_in_the_file_as_stored():
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = SHAPE[0] - 1
    swi = replace(volume(Modality.SWI), native=Grid(SHAPE, oblique() @ flip))
    (lesion,) = measure(block(), Scans(swi=swi))
    assert lesion.centroid_voxel == pytest.approx((SHAPE[0] - 1 - 12.5, 11, 5.5))


def test_region_is_that_of_most_voxels():
    regions = np.zeros(SHAPE, dtype=np.uint8)
    regions[12:14, 10:13, 5:7] = 109
    regions[12:14, 10, 5:7] = 222
    (lesion,) = measure(block(), regions=regions)
    assert (lesion.region, lesion.region_name) == (109, "left frontal")
    assert (lesion.compartment, lesion.side) == (Compartment.LOBAR, Side.LEFT)


def test_a_minority_inside_a_region_beats_a_majority_outside_all():
    regions = np.zeros(SHAPE, dtype=np.uint8)
    regions[12, 10, 5] = 1
    (lesion,) = measure(block(), regions=regions)
    assert (lesion.region, lesion.side) == (1, Side.MIDLINE)
    assert lesion.compartment is Compartment.INFRATENTORIAL


@pytest.mark.parametrize(("i", "region"), [(13 + 10, 209), (13 + 11, 0)])
def test_nearest_region_is_taken_up_to_5_mm(i, region):
    regions = np.zeros(SHAPE, dtype=np.uint8)
    regions[i, 11, 5] = 209  # 0.5 mm a voxel
    (lesion,) = measure(block(), regions=regions)
    assert lesion.region == region
    assert lesion.side is (Side.RIGHT if region else None)


def test_the_nearest_of_two_regions_wins():
    regions = np.zeros(SHAPE, dtype=np.uint8)
    regions[20, 11, 5], regions[13, 15, 5] = 209, 112  # 3.5 mm and 2.25 mm away
    assert measure(block(), regions=regions)[0].region == 112


def test_iron_counts_in_the_basal_ganglia_only():
    for region, counted in ((222, True), (103, True), (104, False), (0, False)):
        regions = np.full(SHAPE, region, dtype=np.uint8)
        assert measure(block(Finding.IRON), regions=regions)[0].counted is counted
        assert measure(block(Finding.CMB), regions=regions)[0].counted


@pytest.mark.parametrize(("least", "kept"), [(9.0, 1), (9.001, 0)])
def test_minimum_volume_is_inclusive(least, kept):
    config = LesionConfig(min_volume_mm3=least)
    assert len(measure(block(), config=config)) == kept


def test_size_classes():
    expected = {4.99: SizeClass.SMALL, 5.0: SizeClass.LARGE, 10.0: SizeClass.LARGE}
    assert {d: size_class(d) for d in expected} == expected
    findings = np.ones(SHAPE, dtype=np.uint8)
    (huge,) = measure(findings)
    assert huge.exceeds_10mm
    assert huge.size_class is SizeClass.EXCEEDING


# ---- signal ----------------------------------------------------------------


def test_chi_is_measured_against_the_ring():
    scans = both(chi=0.02)
    scans.chimap.data[12:14, 10:13, 5:7] = 0.22
    scans.chimap.data[12, 10, 5] = 0.42
    (lesion,) = measure(block(), scans)
    assert lesion.mean_chi_ppm == pytest.approx((11 * 0.2 + 0.4) / 12, abs=1e-6)
    assert lesion.peak_chi_ppm == pytest.approx(0.4, abs=1e-6)
    assert lesion.total_chi_ppm_mm3 == pytest.approx(lesion.mean_chi_ppm * 9.0)


def test_the_peak_keeps_its_sign():
    scans = both(chi=0.02)
    scans.chimap.data[12, 10, 5] = -0.4
    (lesion,) = measure(block(Finding.CALCIFICATION), scans)
    assert lesion.peak_chi_ppm == pytest.approx(-0.42, abs=1e-6)


def test_the_ring_leaves_out_other_findings_and_what_is_outside_the_scan():
    scans, findings = both(swi=100.0), block()
    scans.swi.data[12:14, 10:13, 5:7] = 40.0
    scans.swi.data[13 + 4 :, :, :] = 7.0  # dark, but itself a finding
    findings[13 + 4 :, :, :] = Finding.IRON
    scans.swi.data[: 12 - 4, :, :] = 0.0  # outside the scan
    assert measure(findings, scans)[0].swi_contrast == pytest.approx(0.6)


def test_the_ring_prefers_tissue_to_ventricle():
    scans = both(swi=300.0)
    regions = np.zeros(SHAPE, dtype=np.uint8)
    regions[17:], scans.swi.data[17:] = 109, 100.0
    scans.swi.data[12:14, 10:13, 5:7] = 40.0
    assert measure(block(), scans, regions=regions)[0].swi_contrast == pytest.approx(0.6)


def test_without_a_scan_its_measurements_are_missing():
    (on_swi,) = measure(block(), Scans(swi=volume(Modality.SWI)))
    (on_qsm,) = measure(block(), Scans(chimap=volume(Modality.CHIMAP)))
    assert on_swi.mean_chi_ppm is on_swi.peak_chi_ppm is on_swi.total_chi_ppm_mm3 is None
    assert on_swi.swi_contrast is not None
    assert on_qsm.swi_contrast is None
    assert on_qsm.mean_chi_ppm is not None


def test_a_lesion_outside_the_map_has_no_chi():
    (lesion,) = measure(block(), both(chi=0.0))
    assert lesion.mean_chi_ppm is None


def test_a_lesion_that_fills_the_image_has_no_ring():
    (lesion,) = measure(np.ones(SHAPE, dtype=np.uint8))
    assert lesion.swi_contrast is lesion.mean_chi_ppm is None


# ---- probability and grade -------------------------------------------------


@pytest.mark.parametrize(("p", "grade"), [(0.75, Certainty.DEFINITE), (0.74, Certainty.POSSIBLE)])
def test_grade_follows_the_greatest_probability_of_the_own_finding(p, grade):
    probabilities = np.zeros((3, *SHAPE), dtype=np.float64)
    probabilities[0] = 1.0
    probabilities[1] = p - 0.12
    probabilities[1, 12, 10, 5] = p
    (lesion,) = measure(block(Finding.IRON), probabilities=probabilities)
    assert lesion.probability == pytest.approx(p)
    assert lesion.certainty is grade


def test_what_a_person_drew_is_definite():
    (lesion,) = measure(block())
    assert lesion.probability is None
    assert lesion.certainty is Certainty.DEFINITE


def test_on_swi_alone_every_microbleed_is_possible():
    certain = np.ones((3, *SHAPE), dtype=np.float32)
    alone = Scans(swi=volume(Modality.SWI))
    (cmb,) = measure(block(Finding.CMB), alone, probabilities=certain)
    (iron,) = measure(block(Finding.IRON), alone, probabilities=certain)
    assert (cmb.certainty, iron.certainty) == (Certainty.POSSIBLE, Certainty.DEFINITE)
    (with_t2w,) = measure(
        block(Finding.CMB), replace(alone, t2w=volume(Modality.T2W)), probabilities=certain
    )
    assert with_t2w.certainty is Certainty.DEFINITE


# ---- refusals --------------------------------------------------------------


def test_scans_on_two_grids_are_refused():
    moved = replace(volume(Modality.CHIMAP), affine=np.eye(4))
    with pytest.raises(GeometryError, match=r"sub-01_Chimap.*sub-01_swi"):
        measure(block(), Scans(swi=volume(Modality.SWI), chimap=moved))


@pytest.mark.parametrize("which", ["findings", "regions", "probabilities"])
def test_arrays_of_another_shape_are_refused(which):
    arrays = {
        "findings": block(),
        "regions": np.zeros(SHAPE, dtype=np.uint8),
        "probabilities": np.zeros((3, *SHAPE)),
    }
    arrays[which] = arrays[which][..., :-1]
    with pytest.raises(GeometryError, match=rf"{which} have shape .*sub-01_swi"):
        measure_lesions(scans=both(), config=CONFIG, **arrays)


def test_an_unknown_region_is_refused():
    with pytest.raises(InputError, match=r"\[99\]"):
        measure(block(), regions=np.full(SHAPE, 99, dtype=np.uint8))


# ---- laws ------------------------------------------------------------------


def random_findings(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.choice([0, 1, 2, 3], size=SHAPE, p=[0.97, 0.01, 0.01, 0.01]).astype(np.uint8)


@given(st.integers(0, 10_000), st.sampled_from([0.0, 1.0, 2.0]))
@settings(max_examples=15, deadline=None)
def test_no_voxel_is_counted_twice_and_the_map_fits_the_list(seed, least):
    findings = random_findings(seed)
    before = findings.copy()
    measured = measure_lesions(
        findings,
        scans=both(),
        regions=np.zeros(SHAPE, dtype=np.uint8),
        probabilities=None,
        config=LesionConfig(min_volume_mm3=least),
    )
    sizes = np.bincount(measured.instances.ravel(), minlength=len(measured.lesions) + 1)
    assert [lesion.n_voxels for lesion in measured.lesions] == sizes[1:].tolist()
    assert [lesion.index for lesion in measured.lesions] == list(range(1, len(sizes)))
    kept = measured.findings()
    assert np.array_equal(kept[kept > 0], findings[kept > 0])
    assert least > 0 or np.array_equal(kept, findings)
    assert np.array_equal(before, findings)


@given(st.integers(0, 10_000), st.integers(0, 2))
@settings(max_examples=8, deadline=None)
def test_flipping_arrays_with_their_affine_changes_nothing(seed, axis):
    findings, rng = random_findings(seed), np.random.default_rng(seed)
    swi = replace(volume(Modality.SWI), data=rng.uniform(50, 100, SHAPE).astype(np.float32))
    regions = np.where(rng.random(SHAPE) > 0.9, 109, 0).astype(np.uint8)
    flip = np.eye(4)
    flip[axis, axis], flip[axis, 3] = -1, SHAPE[axis] - 1
    flipped = replace(swi, data=np.flip(swi.data, axis), affine=swi.affine @ flip)
    here = measure(findings, Scans(swi=swi), regions=regions)
    there = measure(np.flip(findings, axis), Scans(swi=flipped), regions=np.flip(regions, axis))

    def key(lesion):
        return (
            lesion.finding,
            np.round(lesion.centroid_mm, 6).tolist(),
            lesion.n_voxels,
            round(lesion.swi_contrast, 6),
        )

    assert sorted(map(key, here)) == sorted(map(key, there))
