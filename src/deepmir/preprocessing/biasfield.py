"""The receive field of the coil: estimated by N4 inside the brain, divided out."""

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name its documentation uses

from deepmir.errors import GeometryError
from deepmir.geometry import Affine
from deepmir.preprocessing.resample import from_itk, one_thread, to_itk
from deepmir.volume import BoolMap, FloatMap

_ITERATIONS = (20, 20, 20)  # measured: 50 a level took twice as long and changed nothing
_MIN_VOXELS = 8  # along an axis, of the shrunken image: the spline needs its control points


def correct_bias(image: FloatMap, mask: BoolMap, affine: Affine, *, shrink: int) -> FloatMap:
    """Divide out the smooth field that N4 finds inside the mask.

    N4 (doi:10.1109/TMI.2010.2046908) works on an image shrunken in plane by `shrink` and
    along the slices until its voxels are about as long; the field is smooth, so nothing is
    lost. The mean of the brain is kept.

    Parameters
    ----------
    image : (I, J, K) array
        Arbitrary positive units; voxels that are not positive take no part.
    mask : (I, J, K) bool array
        The brain.
    affine
        Grid of both.
    shrink
        Factor of the axis with the smallest voxels.

    Returns
    -------
    (I, J, K) float32 array; the image itself where the mask has no positive voxel

    Raises
    ------
    GeometryError
        If image and mask differ in shape.
    """
    if image.shape != mask.shape:
        raise GeometryError(f"image is {image.shape} but its mask is {mask.shape}")
    usable = mask & (image > 0)
    if usable.sum() < _MIN_VOXELS**3:
        return image.astype(np.float32)
    field = _field(image, usable, affine, shrink=shrink)
    corrected = image / field
    corrected *= image[usable].mean(dtype=np.float64) / corrected[usable].mean(dtype=np.float64)
    return corrected.astype(np.float32, copy=False)


def _field(image: FloatMap, usable: BoolMap, affine: Affine, *, shrink: int) -> FloatMap:
    full, inside = to_itk(image, affine), to_itk(usable, affine)
    factors = _shrink_factors(full, shrink)
    small = sitk.Shrink(full, factors)
    method = sitk.N4BiasFieldCorrectionImageFilter()
    method.SetMaximumNumberOfIterations(_ITERATIONS)
    with one_thread():
        method.Execute(small, sitk.Shrink(inside, factors))
    log_field = from_itk(method.GetLogBiasFieldAsImage(full))
    field: FloatMap = np.exp(log_field)
    return field


def _shrink_factors(image: sitk.Image, shrink: int) -> list[int]:
    target_mm = shrink * min(image.GetSpacing())
    return [
        max(1, min(round(target_mm / step), n // _MIN_VOXELS))
        for step, n in zip(image.GetSpacing(), image.GetSize(), strict=True)
    ]
