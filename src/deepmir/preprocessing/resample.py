"""From one grid to another: the bridge to SimpleITK and the 2 mm grid of the anatomy part."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813 - the name its documentation uses
from scipy import ndimage

from deepmir.geometry import Affine, Grid, Shape
from deepmir.volume import BoolMap, FloatMap, IntMap

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])  # ITK's world has x to the left, y to the back


def to_itk(data: FloatMap | BoolMap, affine: Affine) -> sitk.Image:
    """Image of SimpleITK from an array (I, J, K) and its affine.

    Raises
    ------
    GeometryError
        If the affine is not an invertible (4, 4) matrix.
    """
    grid = Grid((data.shape[0], data.shape[1], data.shape[2]), affine)
    dtype = np.uint8 if data.dtype == np.bool_ else np.float32
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.T, dtype=dtype))
    _set_geometry(image, grid)
    return image


def from_itk(image: sitk.Image) -> FloatMap:
    """Array (I, J, K) of an image of SimpleITK, float32."""
    return np.ascontiguousarray(sitk.GetArrayViewFromImage(image).T, dtype=np.float32)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let SimpleITK sum in one thread, hence in one order: the same bits every time.

    A filter's own number of threads does not reach the metric inside a registration, so the
    library's default is changed, and put back at the end.
    """
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def resample(
    data: FloatMap, affine: Affine, target: Grid, *, transform: sitk.Transform | None = None
) -> FloatMap:
    """Resample an image linearly onto another grid; 0 outside its field of view.

    Parameters
    ----------
    data : (I, J, K) array
    affine
        Grid of `data`.
    target
        Grid of the result.
    transform
        From points of the target to points of `data`, in ITK's world (LPS, mm); None: the
        two share one scanner space.

    Returns
    -------
    array of the target's shape, float32

    Raises
    ------
    GeometryError
        If an affine is not an invertible (4, 4) matrix.
    """
    step = sitk.ResampleImageFilter()
    step.SetSize([int(n) for n in target.shape])
    step.SetOutputSpacing(target.spacing_mm)
    step.SetOutputOrigin(_itk_origin(target))
    step.SetOutputDirection(_itk_direction(target))
    step.SetInterpolator(sitk.sitkLinear)
    step.SetOutputPixelType(sitk.sitkFloat32)
    if transform is not None:
        step.SetTransform(transform)
    return from_itk(step.Execute(to_itk(data, affine)))


def resample_mean(data: FloatMap, affine: Affine, target: Grid) -> FloatMap:
    """Resample an image onto a coarser grid: each voxel is the mean of what was measured in it.

    One sample in its middle would keep the noise of a single fine voxel. Voxels of exactly 0
    are background: they take no part, and a voxel is 0 where they fill half of it or more.

    Raises
    ------
    GeometryError
        If an affine is not an invertible (4, 4) matrix.
    """
    measured = _mean_of_eight((data != 0).astype(np.float32), affine, target)
    mean = _mean_of_eight(data, affine, target)
    return np.where(measured > 0.5, mean / np.maximum(measured, 0.5), np.float32(0))


def _mean_of_eight(data: FloatMap, affine: Affine, target: Grid) -> FloatMap:
    """Mean of eight linear samples spread over each voxel of the target."""
    step_i, step_j, step_k = (step / 2 for step in target.spacing_mm)
    fine = resample(data, affine, regrid(target, (step_i, step_j, step_k)))
    i, j, k = target.shape
    mean: FloatMap = fine.reshape(i, 2, j, 2, k, 2).mean(axis=(1, 3, 5))
    return mean


def resample_labels(labels: IntMap, affine: Affine, target: Grid) -> IntMap:
    """Bring a label map onto another grid by the nearest voxel; 0 outside its field of view.

    A lesion smaller than a voxel of the target can vanish: count before and after.

    Raises
    ------
    GeometryError
        If `affine` is not an invertible (4, 4) matrix.
    """
    source = Grid((labels.shape[0], labels.shape[1], labels.shape[2]), affine)
    to_source = np.linalg.inv(source.affine) @ target.affine
    # "grid-constant": with "constant" a border voxel is lost where rounding puts it at -1e-16
    moved: IntMap = ndimage.affine_transform(
        labels, to_source, output_shape=target.shape, order=0, mode="grid-constant", cval=0
    )
    return moved


def regrid(grid: Grid, spacing_mm: tuple[float, float, float]) -> Grid:
    """Grid along the same axes, over the same field of view, with other voxels.

    The outer face of the first voxel stays in place; the field of view is covered to its
    last voxel, so that it may grow by less than one new voxel at the far ends.

    Examples
    --------
    >>> coarse = regrid(Grid((4, 4, 3), np.eye(4)), (2.0, 2.0, 2.0))
    >>> coarse.shape, coarse.affine[:3, 3].tolist()
    ((2, 2, 2), [0.5, 0.5, 0.5])
    """
    old, new = np.array(grid.spacing_mm), np.array(spacing_mm)
    extent_mm = np.array(grid.shape) * old
    i, j, k = (int(n) for n in np.ceil(extent_mm / new - 1e-3).clip(min=1))
    affine = grid.affine.copy()
    affine[:3, :3] = grid.affine[:3, :3] * (new / old)
    first_voxel = (new / old - 1) / 2  # its centre, in voxels of the old grid
    affine[:3, 3] = grid.affine[:3, :3] @ first_voxel + grid.affine[:3, 3]
    return Grid((i, j, k), affine)


def upsample(coarse: FloatMap, shape: Shape, ratio: tuple[float, float, float]) -> FloatMap:
    """Interpolate linearly from a grid made by :func:`regrid` back to the grid it came from.

    Parameters
    ----------
    coarse : (..., I, J, K) array
        Values on the new grid, possibly padded at the far ends.
    shape
        Shape of the old grid.
    ratio
        Voxel of the old grid over that of the new one, along I, J and K.

    Returns
    -------
    (..., *shape) float32 array
    """
    fine = np.asarray(coarse, dtype=np.float32)
    # K first: callers upsample a few slices at a time, which keeps the arrays small
    for axis in (2, 1, 0):
        at = along_axis(shape[axis], ratio[axis])
        fine = interpolate_axis(fine, at, axis=axis - 3)
    return fine


def along_axis(n: int, ratio: float) -> npt.NDArray[np.float64]:
    """Where the n voxels of the old grid lie along one axis of a :func:`regrid` grid."""
    return (np.arange(n, dtype=np.float64) + 0.5) * ratio - 0.5


def interpolate_axis(data: FloatMap, at: npt.NDArray[np.float64], *, axis: int) -> FloatMap:
    """Interpolate linearly along one axis at the places `at` (in voxels, clamped)."""
    last = data.shape[axis] - 1
    at = at.clip(0, last)
    below = np.floor(at).astype(int).clip(max=max(last - 1, 0))
    weight_shape = [1] * data.ndim
    weight_shape[axis] = -1
    weight = (at - below).astype(np.float32).reshape(weight_shape)
    low = data.take(below, axis=axis)
    high = data.take(np.minimum(below + 1, last), axis=axis)
    result: FloatMap = low + weight * (high - low)
    return result


def _set_geometry(image: sitk.Image, grid: Grid) -> None:
    image.SetSpacing(grid.spacing_mm)
    image.SetOrigin(_itk_origin(grid))
    image.SetDirection(_itk_direction(grid))


def _itk_origin(grid: Grid) -> list[float]:
    return [float(x) for x in _RAS_TO_LPS @ grid.affine[:3, 3]]


def _itk_direction(grid: Grid) -> list[float]:
    axes = grid.affine[:3, :3] / np.array(grid.spacing_mm)
    return [float(x) for x in (_RAS_TO_LPS @ axes).ravel()]
