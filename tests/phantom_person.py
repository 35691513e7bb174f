"""A person for the tiny network: a textured ellipsoid with one finding of each kind."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from deepmir.labels import Finding
from deepmir.volume import Modality, Scans, Volume

SHAPE = (44, 48, 26)
SPACING_MM = (0.9, 0.95, 2.0)
CENTRES: dict[Finding, tuple[float, float, float]] = {
    Finding.CMB: (0.23, 0.66, 0.55),
    Finding.IRON: (0.56, 0.5, 0.5),
    Finding.CALCIFICATION: (0.65, 0.28, 0.6),
}
"""Where the findings lie, as share of the field of view along I, J and K."""


@dataclass(frozen=True)
class Person:
    """Scans on one grid, and the truth: findings (1, 2, 3) and the brain."""

    scans: Scans
    findings: np.ndarray
    brain: np.ndarray

    def only(self, *modalities: Modality) -> Scans:
        """Return a subset of the scans."""
        kept = {
            modality: volume for modality, volume in self._by_modality() if modality in modalities
        }
        return Scans(
            t2w=kept.get(Modality.T2W), swi=kept.get(Modality.SWI), chimap=kept.get(Modality.CHIMAP)
        )

    def _by_modality(self):
        for volume in (self.scans.t2w, self.scans.swi, self.scans.chimap):
            yield volume.modality, volume


def phantom_person(
    shape=SHAPE, spacing_mm=SPACING_MM, *, affine=None, radius_mm=2.6, seed=0
) -> Person:
    """Build T2w, swi and Chimap (ppm) of one person with a CMB, an iron deposit, a calcification.

    Grids are RAS+ with the origin in the middle, unless an affine is given.
    """
    rng = np.random.default_rng(seed)
    if affine is None:
        affine = np.diag([*spacing_mm, 1.0])
        affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2
    places = [np.linspace(0, 1, n, endpoint=False) + 0.5 / n for n in shape]
    share = np.stack(np.meshgrid(*places, indexing="ij"))
    brain = np.sum(((share - 0.5) / 0.42) ** 2, axis=0) < 1
    field_mm = (np.array(shape) * spacing_mm)[:, None, None, None]
    findings = np.zeros(shape, dtype=np.uint8)
    for finding, centre in CENTRES.items():
        away_mm = (share - np.array(centre)[:, None, None, None]) * field_mm
        findings[np.sum(away_mm**2, axis=0) < radius_mm**2] = finding
    texture = [_smooth_noise(rng, shape, spacing_mm) for _ in range(2)]
    noise = rng.normal(size=shape)
    swi = np.where(findings > 0, 20, 100 + 4 * texture[0] - 6 * texture[1] + noise)
    t2w = 100 - 15 * texture[0] + 10 * texture[1] + rng.normal(size=shape)
    chi = 0.02 * texture[1] + 0.003 * noise
    chi = np.where(findings == Finding.CALCIFICATION, -0.6, np.where(findings > 0, 0.6, chi))
    volumes = [
        Volume((image * brain).astype(np.float32), affine, modality, unit, f"sub-01_{modality}.nii")
        for image, modality, unit in (
            (t2w, Modality.T2W, ""),
            (swi, Modality.SWI, ""),
            (chi, Modality.CHIMAP, "ppm"),
        )
    ]
    return Person(Scans(*volumes), findings, brain)


def _smooth_noise(rng, shape, spacing_mm):
    noise = ndimage.gaussian_filter(rng.normal(size=shape), [4 / step for step in spacing_mm])
    return noise / noise.std()
