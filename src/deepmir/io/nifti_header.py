"""NIfTI headers as they stand in the file: shape, type, scaling, and where the voxels lie.

Headers are parsed without the repairs of nibabel, so that a defect is told to the user and
not mended in silence (format: https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError

from deepmir.errors import GeometryError, InputError
from deepmir.geometry import Affine, Grid, Shape, check_affine
from deepmir.volume import Notice

LARGEST_HEADER_BYTES = 540
"""Length of a NIfTI-2 header, the longer of the two."""

_RawHeader = Any  # nibabel has no types
_FIRST_VOXEL_BYTE = {b"n+1": 352, b"n+2": 544}  # by the magic of a single-file NIfTI
_PAIR_MAGIC = (b"ni1", b"ni2")


@dataclass(frozen=True, slots=True, eq=False)
class Header:
    """What is used of a NIfTI header, checked."""

    grid: Grid  # as stored
    dtype: np.dtype[Any]
    offset: int  # byte of the first voxel
    slope: float
    intercept: float
    notices: tuple[Notice, ...]
    n_volumes: int = 1
    has_orientation: bool = True  # whether sform or qform say where the voxels lie

    @property
    def n_bytes(self) -> int:
        """Bytes that the voxels take in the file."""
        return math.prod(self.grid.shape) * self.n_volumes * self.dtype.itemsize

    @property
    def is_scaled(self) -> bool:
        """Whether stored values must be scaled to get true ones."""
        return (self.slope, self.intercept) != (1.0, 0.0)


def parse_header(start: bytes, path: Path, *, series: bool = False) -> Header:
    """Read the first bytes of a file as a NIfTI-1 or NIfTI-2 header of one 3-D volume.

    The affine is the sform, else the qform, else the voxel size alone with a notice.

    Parameters
    ----------
    start : bytes
        The first `LARGEST_HEADER_BYTES` bytes of the file, decompressed; fewer if it is short.
    path : Path
        The file, for messages.
    series : bool
        Take several volumes along a fourth axis too.

    Raises
    ------
    InputError
        If this is no single-file NIfTI, or an unwanted series, a single slice, complex or RGB.
    GeometryError
        If voxel size or affine are invalid.
    """
    raw = _raw_header(start, path)
    try:
        slope, intercept = raw.get_slope_inter()
        dtype = raw.get_data_dtype()
        offset = int(raw["vox_offset"])
    except (HeaderDataError, KeyError, ValueError, OverflowError) as error:
        raise InputError(f"{path} has a damaged NIfTI header: {error}; convert it again") from error
    _check_dtype(dtype, path)
    n_volumes = _count_volumes(raw, path, series=series)
    grid, notices = _stored_grid(raw, path)
    return Header(
        grid=grid,
        dtype=dtype,
        offset=max(offset, _FIRST_VOXEL_BYTE[_magic(raw)]),
        slope=1.0 if slope is None else float(slope),
        intercept=0.0 if intercept is None else float(intercept),
        notices=notices,
        n_volumes=n_volumes,
        has_orientation=any(int(raw[code]) > 0 for code in ("sform_code", "qform_code")),
    )


def times_text(steps: Iterable[float]) -> str:
    """Lengths as text.

    Examples
    --------
    >>> times_text([0.9, 0.9, 1.5])
    '0.9 × 0.9 × 1.5'
    """
    return " × ".join(f"{step:.3g}" for step in steps)


def _raw_header(start: bytes, path: Path) -> _RawHeader:
    if not start:
        raise InputError(f"{path} is empty (0 bytes); copy it again")
    if start[128:132] == b"DICM":
        raise InputError(f"{path} is a DICOM file; convert the series to NIfTI first (dcm2niix)")
    length = {int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")}
    for size, kind in ((348, Nifti1Header), (540, Nifti2Header)):
        if size in length and len(start) >= size:
            raw = kind(binaryblock=start[:size], check=False)
            if _magic(raw) in _FIRST_VOXEL_BYTE:
                return raw
            if _magic(raw) in _PAIR_MAGIC:
                raise InputError(f"{path} is half of a .hdr/.img pair; convert it to one .nii.gz")
    raise InputError(f"{path} is not a NIfTI file; wanted NIfTI-1 or NIfTI-2 (.nii or .nii.gz)")


def _magic(raw: _RawHeader) -> bytes:
    return bytes(raw["magic"].item())[:3]


def _check_dtype(dtype: np.dtype[Any], path: Path) -> None:
    if dtype.kind == "c":
        raise InputError(
            f"{path} is complex ({dtype}); wanted real values: store magnitude and phase apart"
        )
    if dtype.kind not in "iuf":
        raise InputError(f"{path} is a colour picture; wanted one number per voxel")


def _shape(raw: _RawHeader, path: Path) -> Shape:
    shape = tuple(int(length) for length in raw.get_data_shape())
    if any(length < 1 for length in shape):
        raise InputError(f"{path} has the impossible shape {shape}; convert it again")
    if len(shape) < 3 or min(shape[:3]) == 1:
        raise InputError(
            f"{path} is a single slice of shape {shape}; wanted a 3-D volume of several slices"
        )
    return shape[0], shape[1], shape[2]


def _count_volumes(raw: _RawHeader, path: Path, *, series: bool) -> int:
    shape = tuple(int(length) for length in raw.get_data_shape())
    n_volumes = math.prod(shape[3:])
    if n_volumes > 1 and not series:
        raise InputError(f"{path} is a series of shape {shape}; wanted one 3-D volume: extract it")
    if n_volumes != math.prod(shape[3:4]):
        raise InputError(f"{path} has the shape {shape}; wanted at most four axes")
    return max(n_volumes, 1)


def _stored_grid(raw: _RawHeader, path: Path) -> tuple[Grid, tuple[Notice, ...]]:
    shape = _shape(raw, path)
    _check_voxel_size(raw, path)
    sform, qform = _form(raw, "sform", path), _form(raw, "qform", path)
    if sform is not None:
        grid = Grid(shape, sform)
        steps = [float(step) for step in raw["pixdim"][1:4]]
        return grid, _disagreement(grid, qform, steps_mm=steps, path=path)
    if qform is not None:
        return Grid(shape, qform), ()
    message = (
        f"{path} has no orientation (sform and qform code are 0): storage from right to left was "
        "assumed, as is usual, so left and right may be exchanged"
    )
    return Grid(shape, np.array(raw.get_base_affine())), (Notice("read", message),)


def _check_voxel_size(raw: _RawHeader, path: Path) -> None:
    steps = [float(step) for step in raw["pixdim"][1:4]]
    if not all(math.isfinite(step) and step > 0 for step in steps):
        raise GeometryError(
            f"{path} has a voxel size of {times_text(steps)} mm; wanted positive numbers: "
            "correct the header or convert the scan again"
        )


def _form(raw: _RawHeader, which: str, path: Path) -> Affine | None:
    """Return sform or qform if the header declares it; refuse one that cannot be."""
    if int(raw[f"{which}_code"]) <= 0:
        return None
    # qfac is the sign of pixdim[0]; 0 stands for 1 (nifti1.h)
    raw["pixdim"][0] = -1.0 if raw["pixdim"][0] < 0 else 1.0
    try:
        affine = np.array(raw.get_sform() if which == "sform" else raw.get_qform(), dtype=float)
        check_affine(affine)
    except (HeaderDataError, ValueError) as error:
        raise GeometryError(
            f"{path} has an unusable {which}: {error}; correct the header or convert it again"
        ) from error
    return affine


def _disagreement(
    used: Grid, qform: Affine | None, *, steps_mm: list[float], path: Path
) -> tuple[Notice, ...]:
    """Notice where the qform, or else the voxel size, contradicts the sform that is used."""
    if qform is not None:
        shift_mm = np.abs(used.corners_mm() - Grid(used.shape, qform).corners_mm()).max()
        if shift_mm > 0.5 * min(used.spacing_mm):
            text = f"sform and qform place the voxels of {path} up to {shift_mm:.1f} mm apart"
            return (Notice("read", f"{text}; the sform was used"),)
        return ()
    if not np.allclose(steps_mm, used.spacing_mm, rtol=0.02):
        text = f"the header of {path} gives voxels of {times_text(steps_mm)} mm, but its sform"
        return (Notice("read", f"{text} {times_text(used.spacing_mm)} mm; the sform was used"),)
    return ()
