"""A small made-up head with every label the simulator needs: fast, and no real person's."""

import numpy as np

from deepmir.simulation.anatomy import Anatomy

SHAPE = (76, 88, 72)
CENTRE = np.array([38.0, 44.0, 36.0])


def ellipsoid(offset, radii) -> np.ndarray:
    """Mask of an ellipsoid at an offset (mm, RAS+) from the middle of the head."""
    at = np.indices(SHAPE).T - CENTRE - np.array(offset, dtype=float)
    return ((at / np.array(radii, dtype=float)) ** 2).sum(axis=-1).T <= 1


def phantom_anatomy() -> Anatomy:
    """Skull, CSF, cortex, white matter, ventricles, deep nuclei, brain stem, 1 mm."""
    left = np.indices(SHAPE)[0] < CENTRE[0]
    labels = np.zeros(SHAPE, np.uint16)
    labels[ellipsoid((0, 0, 0), (35, 42, 33))] = 507
    labels[ellipsoid((0, 0, 0), (33, 40, 31))] = 515
    inner = ellipsoid((0, 0, 0), (30, 37, 28))
    labels[inner] = 24
    cortex, white = ellipsoid((0, 0, 0), (28, 35, 26)), ellipsoid((0, 0, 0), (24, 31, 22))
    labels[cortex] = np.where(left, 3, 42)[cortex]
    labels[white] = np.where(left, 2, 41)[white]
    for side, (ventricle, thalamus, putamen, pallidum, caudate) in (
        (-1, (4, 10, 12, 13, 11)),
        (1, (43, 49, 51, 52, 50)),
    ):
        labels[ellipsoid((side * 5, -2, 6), (3, 14, 4))] = ventricle
        labels[ellipsoid((side * 6, -8, 0), (4, 6, 4))] = thalamus
        labels[ellipsoid((side * 15, 4, -1), (4, 9, 6))] = putamen
        labels[ellipsoid((side * 10, 3, -2), (3, 5, 4))] = pallidum
        labels[ellipsoid((side * 7, 14, 6), (3, 5, 4))] = caudate
    labels[ellipsoid((0, -6, -16), (5, 5, 9))] = 16
    labels[ellipsoid((-10, -22, -14), (7, 7, 5))] = 8
    labels[ellipsoid((10, -22, -14), (7, 7, 5))] = 47
    return Anatomy(
        labels=labels,
        regions=np.where(white, np.where(left, 109, 209), 0).astype(np.uint8),
        brain=inner,
        affine=np.eye(4),
        name="head_01",
    )
