"""Voxel grids and scanner space: the only module that does affine arithmetic.

Arrays are indexed (I, J, K). An affine maps voxel indices to scanner millimetres, RAS+.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deepmir.errors import GeometryError

Affine = npt.NDArray[np.float64]
"""(4, 4) matrix from voxel indices (i, j, k) to scanner millimetres, RAS+."""

Shape = tuple[int, int, int]


def check_affine(affine: Affine) -> None:
    """Check that `affine` is an invertible (4, 4) matrix.

    Raises
    ------
    GeometryError
        If the shape is wrong, a value is not finite, or the matrix is singular.
    """
    if affine.shape != (4, 4):
        raise GeometryError(f"affine must be (4, 4), got {affine.shape}")
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise GeometryError(f"affine must be finite and invertible, got\n{affine}")


def spacing_mm(affine: Affine) -> tuple[float, float, float]:
    """Length of a voxel along I, J and K in mm.

    Examples
    --------
    >>> spacing_mm(np.diag([-0.5, 0.75, 2.0, 1.0]))
    (0.5, 0.75, 2.0)
    """
    check_affine(affine)
    i, j, k = np.linalg.norm(affine[:3, :3], axis=0)
    return float(i), float(j), float(k)


def voxel_volume_mm3(affine: Affine) -> float:
    """Volume of one voxel in mm³; right also for oblique and sheared grids.

    Examples
    --------
    >>> voxel_volume_mm3(np.diag([-0.5, 0.5, 2.0, 1.0]))
    0.5
    """
    check_affine(affine)
    return float(abs(np.linalg.det(affine[:3, :3])))


def voxel_to_world(ijk: npt.NDArray[np.float64], affine: Affine) -> npt.NDArray[np.float64]:
    """Map voxel coordinates (n, 3) to scanner millimetres (n, 3)."""
    check_affine(affine)
    return np.asarray(ijk @ affine[:3, :3].T + affine[:3, 3])


def sphere_diameter_mm(volume_mm3: float) -> float:
    """Diameter of the sphere of equal volume.

    Raises
    ------
    ValueError
        If `volume_mm3` is negative.

    Examples
    --------
    >>> round(sphere_diameter_mm(523.6), 1)
    10.0
    """
    if volume_mm3 < 0:
        raise ValueError(f"volume must not be negative, got {volume_mm3} mm3")
    return float(np.cbrt(6 * volume_mm3 / np.pi))


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """A voxel grid in scanner space: what two arrays must share to be combined."""

    shape: Shape
    affine: Affine

    def __post_init__(self) -> None:
        check_affine(self.affine)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Length of a voxel along I, J and K in mm."""
        return spacing_mm(self.affine)

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel in mm³."""
        return voxel_volume_mm3(self.affine)

    def matches(self, other: "Grid", tolerance_mm: float = 1e-2) -> bool:
        """Tell whether both grids have the same shape and no corner lies further apart."""
        if self.shape != other.shape:
            return False
        return bool(np.abs(self.corners_mm() - other.corners_mm()).max() <= tolerance_mm)

    def corners_mm(self) -> npt.NDArray[np.float64]:
        """Scanner coordinates (8, 3) of the centres of the eight corner voxels."""
        last = np.array(self.shape, dtype=float) - 1
        steps = np.array(list(np.ndindex(2, 2, 2)), dtype=float)
        return voxel_to_world(steps * last, self.affine)


def check_same_grid(first: Grid, second: Grid, *, first_name: str, second_name: str) -> None:
    """Check that two images lie on one grid.

    Raises
    ------
    GeometryError
        If shape or affine differ.
    """
    if not first.matches(second):
        raise GeometryError(
            f"{second_name} {second.shape} with voxels of {_text(second)} mm is not on the grid of "
            f"{first_name} {first.shape} with voxels of {_text(first)} mm; "
            "resample one of them onto the other's grid first"
        )


def _text(grid: Grid) -> str:
    return " × ".join(f"{step:.3g}" for step in grid.spacing_mm)
