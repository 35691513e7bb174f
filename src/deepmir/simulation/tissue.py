"""Magnetic properties of tissue by label, sampled per person.

χ is relative to CSF. Starting values at 3 T; R2′ scales with B0, T1 with B0^0.35
(Rooney 2007, doi:10.1002/mrm.21122). Deep nuclei: Treit 2021 (doi:10.1002/hbm.25569) and
Li 2021 (doi:10.3389/fnins.2020.607705); grey and white matter, bone, fat and air: the
in-silico head of the QSM challenge (Marques 2021, doi:10.1002/mrm.28716).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from deepmir.volume import BoolMap, FloatMap, IntMap

AIR_CHI_PPM = 9.4
R2STAR_HZ_PER_PPM = 125.0
"""Slope of R2* with the χ of iron at 3 T (100 to 160, Langkammer 2010 and later)."""


@dataclass(frozen=True, slots=True)
class Tissue:
    """Mean properties of one tissue at 3 T, and how much they vary between persons."""

    chi_ppm: float
    chi_sd_ppm: float
    r2star_hz: float
    t2_s: float
    t1_s: float
    proton_density: float
    iron: bool = False  # χ, R2* and R2 come from one draw


@dataclass(frozen=True, slots=True)
class TissueValues:
    """One person's value per label: arrays indexed by label number."""

    chi_ppm: FloatMap
    r2star_hz: FloatMap
    r2_hz: FloatMap
    t1_s: FloatMap
    proton_density: FloatMap


CSF = Tissue(0.0, 0.002, 3.0, 1.7, 4.0, 1.0)
WHITE = Tissue(-0.022, 0.006, 21.0, 0.072, 0.85, 0.70)
CORTEX = Tissue(0.010, 0.005, 17.0, 0.092, 1.35, 0.82)
AIR = Tissue(AIR_CHI_PPM, 0.0, 0.0, 1.0, 1.0, 0.0)
MUSCLE = Tissue(-0.02, 0.01, 30.0, 0.04, 1.2, 0.75)
FAT = Tissue(0.6, 0.05, 45.0, 0.085, 0.35, 0.9)
CORTICAL_BONE = Tissue(-2.0, 0.2, 400.0, 0.001, 1.0, 0.08)
VENOUS_BLOOD = Tissue(0.40, 0.06, 65.0, 0.045, 1.6, 0.85)
ARTERIAL_BLOOD = Tissue(-0.02, 0.01, 10.0, 0.02, 0.5, 0.95)  # inflow-bright; flow void on T2w
LESION_WHITE = Tissue(-0.005, 0.008, 14.0, 0.13, 1.2, 0.82)

TISSUES: dict[int, Tissue] = {
    0: AIR,
    **dict.fromkeys((2, 41), WHITE),
    **dict.fromkeys((3, 42), CORTEX),
    **dict.fromkeys((4, 43, 5, 44, 14, 15, 24), CSF),
    **dict.fromkeys((7, 46), Tissue(-0.025, 0.008, 22.0, 0.075, 0.9, 0.70)),
    **dict.fromkeys((8, 47), Tissue(0.012, 0.006, 18.0, 0.095, 1.35, 0.82)),
    **dict.fromkeys((10, 49), Tissue(0.015, 0.012, 20.5, 0.075, 1.1, 0.78)),
    **dict.fromkeys((11, 50), Tissue(0.05, 0.012, 23.0, 0.075, 1.25, 0.80, iron=True)),
    **dict.fromkeys((12, 51), Tissue(0.06, 0.02, 27.0, 0.066, 1.2, 0.80, iron=True)),
    **dict.fromkeys((13, 52), Tissue(0.125, 0.03, 40.0, 0.053, 0.95, 0.74, iron=True)),
    16: Tissue(-0.015, 0.01, 20.0, 0.075, 0.95, 0.72),
    **dict.fromkeys((17, 53, 18, 54), Tissue(0.01, 0.006, 17.0, 0.095, 1.35, 0.82)),
    **dict.fromkeys((26, 58), Tissue(0.03, 0.01, 20.0, 0.08, 1.25, 0.80, iron=True)),
    **dict.fromkeys((28, 60), Tissue(0.0, 0.01, 22.0, 0.07, 1.0, 0.74)),
    **dict.fromkeys((25, 57), LESION_WHITE),
    **dict.fromkeys((77, 78, 79), LESION_WHITE),
    **dict.fromkeys((30, 62), Tissue(0.0, 0.002, 5.0, 1.0, 3.0, 0.97)),
    85: Tissue(-0.02, 0.01, 20.0, 0.075, 0.95, 0.72),
    **dict.fromkeys((502,), ARTERIAL_BLOOD),
    **dict.fromkeys((506,), Tissue(0.0, 0.01, 3.0, 0.8, 3.5, 0.98)),
    **dict.fromkeys((507, 508, 509, 512), MUSCLE),
    **dict.fromkeys((511, 516), FAT),
    514: VENOUS_BLOOD,
    515: CORTICAL_BONE,
    530: Tissue(-0.02, 0.01, 20.0, 0.075, 0.95, 0.72),
    **dict.fromkeys((1001, 1002), Tissue(0.165, 0.03, 40.0, 0.055, 1.0, 0.76, iron=True)),
    **dict.fromkeys((1003, 1004), Tissue(0.135, 0.025, 36.0, 0.06, 1.0, 0.76, iron=True)),
    **dict.fromkeys((1005, 1006), Tissue(0.095, 0.025, 30.0, 0.062, 1.05, 0.78, iron=True)),
}
"""Properties by label: FreeSurfer numbers, extra-cerebral ones from 502, nuclei from 1001."""

DURA_PPM = (-0.14, -0.05)
"""Least and greatest χ of falx and tentorium, collagen that calcifies with age; set so that dark
voxels are as many as in real maps (docs/realism.md)."""
PLEXUS_PPM = (-0.15, 0.02)
"""Least and greatest χ of the choroid plexus, black in two of four real maps (docs/realism.md)."""
_CORTEX = (3, 42)
_VENTRICLES = (4, 43)
_IRON = tuple(label for label, tissue in TISSUES.items() if tissue.iron)
_DURAL_REACH_MM = 5.0
_PLEXUS_REACH_MM = 2.5
_N_LABELS = max(TISSUES) + 1


def sample_tissue_values(
    rng: np.random.Generator, *, b0_t: float, age_years: float
) -> TissueValues:
    """Draw one person's properties per label; left and right differ by little.

    Iron grows with age: the χ of the nuclei moves by 0.4 % a year around the age of 60 (Li
    2021). Labels without an entry are soft tissue.
    """
    values = np.zeros((5, _N_LABELS), dtype=np.float32)
    shared = {id(tissue): rng.normal(size=4) for tissue in TISSUES.values()}
    for label, tissue in TISSUES.items():
        draw = shared[id(tissue)] + 0.15 * rng.normal(size=4)
        values[:, label] = _one_tissue(tissue, draw, b0_t=b0_t, age_years=age_years)
    known = np.zeros(_N_LABELS, dtype=bool)
    known[list(TISSUES)] = True
    values[:, ~known] = values[:, [507]]
    return TissueValues(*values)


def lookup(labels: IntMap, per_label: FloatMap) -> FloatMap:
    """Property map (I, J, K) from a label map; unknown numbers count as soft tissue."""
    safe = np.where(labels < len(per_label), labels, 507)
    return np.asarray(per_label[safe], dtype=np.float32)


def texture(
    shape: tuple[int, ...],
    rng: np.random.Generator,
    *,
    correlation_voxels: float,
    amplitude: float,
) -> FloatMap:
    """Smooth Gaussian noise of standard deviation `amplitude`: no tissue is flat."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    smooth = ndimage.gaussian_filter(noise, correlation_voxels)
    return np.asarray(smooth * (amplitude / max(float(smooth.std()), 1e-9)), dtype=np.float32)


def structure_ppm(labels: IntMap, rng: np.random.Generator) -> FloatMap:
    """Susceptibility (I, J, K) that follows anatomy within white matter and cortex, to be added.

    Measured maps are not flat within a label, and what varies there follows the folds: myelin
    makes deep bundles more diamagnetic, above all the sagittal stratum some millimetres beside
    the ventricles; the fibres under the cortex hold iron, and so do the deep layers of the cortex,
    more in some areas than in others, so that a map shows a bright line along the border of
    white matter and not a bright cortex (Fukunaga 2010, doi:10.1073/pnas.0911177107; Li 2012,
    doi:10.1016/j.neuroimage.2011.11.041). Falx and tentorium are dark sheets, the choroid plexus
    is a dark tuft.

    Parameters
    ----------
    labels : (I, J, K) int array
        1 mm label map.
    """
    cortex, white = np.isin(labels, _CORTEX), np.isin(labels, (2, 41))
    to_cortex, to_white = distance_mm(cortex), distance_mm(white)
    to_ventricle = distance_mm(np.isin(labels, _VENTRICLES))
    areas = texture(labels.shape, rng, correlation_voxels=9.0, amplitude=1.0)
    bundles = np.exp(-(((to_ventricle - 5.0) / 2.0) ** 2)) * (1 + 0.5 * areas)
    under_cortex = np.exp(-to_cortex / 1.5)
    deep_layers = np.exp(-(((to_white - 1.3) / 0.8) ** 2)) * (1 + 0.4 * areas)
    strength = rng.uniform(0.7, 1.3, 3)
    within_white = -0.018 * strength[0] * bundles + 0.010 * strength[1] * under_cortex
    ribbon = 0.045 * strength[2] * deep_layers - 0.015
    dura = np.float32(rng.uniform(*DURA_PPM)) * dural_sheets(labels)
    plexus = np.float32(rng.uniform(*PLEXUS_PPM)) * choroid_plexus(labels, rng)
    return np.asarray(within_white * white + ribbon * cortex + dura + plexus, dtype=np.float32)


def iron_pattern(labels: IntMap, rng: np.random.Generator) -> FloatMap:
    """Factor (I, J, K) of the χ of nuclei that hold iron, 1 elsewhere: they are no even blocks."""
    uneven = texture(labels.shape, rng, correlation_voxels=2.0, amplitude=0.3)
    return np.where(np.isin(labels, _IRON), 1 + uneven, np.float32(1))


def choroid_plexus(labels: IntMap, rng: np.random.Generator) -> BoolMap:
    """Mottled tufts (I, J, K) on the wall of the atria."""
    near_wall = distance_mm(~np.isin(labels, _VENTRICLES)) < _PLEXUS_REACH_MM
    mottled = texture(labels.shape, rng, correlation_voxels=1.2, amplitude=1.0) > 0.3
    return np.asarray(atria(labels) & near_wall & mottled)


def atria(labels: IntMap) -> BoolMap:
    """Back third (I, J, K) of the lateral ventricles' bodies, where most of the plexus lies."""
    ventricles = np.isin(labels, _VENTRICLES)
    rows = np.nonzero(ventricles)[1]
    if len(rows) == 0:
        return ventricles
    low, high = np.percentile(rows, [12, 40])
    j = np.arange(labels.shape[1])[None, :, None]
    return np.asarray(ventricles & (j > low) & (j < high))


def dural_sheets(labels: IntMap) -> FloatMap:
    """Share of each voxel (I, J, K) that falx or tentorium fills: 1 mm half-way between two sides.

    Parameters
    ----------
    labels : (I, J, K) int array
        1 mm label map.
    """
    left, right = distance_mm(labels == _CORTEX[0]), distance_mm(labels == _CORTEX[1])
    cerebellum = distance_mm(np.isin(labels, (8, 47)))
    sheets = np.maximum(_half_way(left, right), _half_way(np.minimum(left, right), cerebellum))
    return np.asarray(sheets * np.isin(labels, (*_CORTEX, 8, 47, 24)), dtype=np.float32)


def _half_way(one: FloatMap, other: FloatMap) -> FloatMap:
    """1 half-way between two sides that are near each other; the sum across is 1."""
    near = np.maximum(one, other) < _DURAL_REACH_MM
    return np.asarray(near * np.maximum(1 - np.abs(one - other) / 2, 0), dtype=np.float32)


def distance_mm(mask: BoolMap) -> FloatMap:
    """Distance of every voxel of 1 mm to a mask; far where it is empty."""
    if not mask.any():
        return np.full(mask.shape, 1e3, dtype=np.float32)
    return np.asarray(ndimage.distance_transform_edt(~mask), dtype=np.float32)


def _one_tissue(
    tissue: Tissue, draw: npt.NDArray[np.float64], *, b0_t: float, age_years: float
) -> tuple[float, float, float, float, float]:
    aged = 1 + 0.004 * (age_years - 60) if tissue.iron else 1.0
    chi = tissue.chi_ppm * aged + tissue.chi_sd_ppm * draw[0]
    excess = chi - tissue.chi_ppm if tissue.iron else 0.0
    r2_hz = 1 / tissue.t2_s * (1 + 0.05 * draw[1]) + 30.0 * excess
    r2star_3t = tissue.r2star_hz * (1 + 0.05 * draw[2]) + R2STAR_HZ_PER_PPM * excess
    r2prime = max(r2star_3t - 0.8 * r2_hz, 0.2 * r2star_3t) * b0_t / 3.0
    t1 = tissue.t1_s * (b0_t / 3.0) ** 0.35 * (1 + 0.03 * draw[3])
    return chi, min(0.8 * r2_hz, 0.8 * r2star_3t) + r2prime, r2_hz, t1, tissue.proton_density
