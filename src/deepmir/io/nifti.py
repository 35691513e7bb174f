"""NIfTI in and out: every check that one file alone allows, and the way back to its grid.

    file ──header, voxels──▶ as stored ──flip, permute──▶ Volume in RAS+ ──write_map──▶ file

Reading never interpolates: axes are permuted and flipped to the closest canonical (RAS+)
orientation, the affine keeps obliqueness, and `Volume.native` remembers the stored grid.
"""

import gzip
import math
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt
from nibabel import orientations
from nibabel.nifti1 import Nifti1Image

from deepmir.errors import GeometryError, InputError
from deepmir.geometry import Affine, Grid, Shape, check_same_grid
from deepmir.io.atomic import write_bytes
from deepmir.io.nifti_header import LARGEST_HEADER_BYTES, Header, parse_header, times_text
from deepmir.volume import BoolMap, FloatMap, Modality, Notice, Volume

MAX_SPACING_MM = {Modality.SWI: 5.0, Modality.CHIMAP: 5.0, Modality.T2W: 7.0}
"""Longest voxel edge that still shows what is looked for (docs/decisions.md)."""
MIN_SPACING_MM = 0.05
"""Shorter voxel edges mean that the header is in metres, or wrong."""
MAX_NONFINITE_SHARE = 0.9
"""With a larger share of NaN and infinite voxels an image is refused as damaged."""

_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK_BYTES = 1 << 22
_SCANNER_CODE = 1  # sform and qform code: scanner coordinates
_QFORM_TOLERANCE = 1e-3  # mm per voxel of the longest axis


@dataclass(frozen=True, slots=True, eq=False)
class _Stored:
    """A file as it is: unscaled voxels in its own order."""

    path: Path
    header: Header
    voxels: npt.NDArray[np.generic]

    def reoriented(self, modality: Modality, dtype: npt.DTypeLike) -> Volume:
        """Bring the voxels to RAS+ order and true values, in a single copy."""
        native = self.header.grid
        orientation = orientations.io_orientation(native.affine)
        view = orientations.apply_orientation(self.voxels, orientation)
        with np.errstate(over="ignore", invalid="ignore"):  # becomes inf, which is looked for
            data = np.array(view, dtype=dtype, order="C")
            if self.header.is_scaled:
                data *= data.dtype.type(self.header.slope)
                data += data.dtype.type(self.header.intercept)
        affine = native.affine @ orientations.inv_ornt_aff(orientation, native.shape)
        return Volume(data, affine, modality, name=str(self.path), native=native)


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """The volumes of one file, such as the echoes of a gradient echo."""

    volumes: tuple[Volume, ...]  # float32, RAS+; what was not finite is 0
    finite: BoolMap  # (I, J, K): finite in every volume
    has_orientation: bool  # whether the header says where the voxels lie
    notices: tuple[Notice, ...]


def read_series(path: Path, modality: Modality) -> Series:
    """Read one volume, or several along a fourth axis, as :func:`read_volume` reads one.

    Raises
    ------
    InputError
        As :func:`read_volume`; also if one volume holds nothing but one value.
    GeometryError
        If the voxel size or affine is invalid.
    """
    stored = _read_stored(path, series=True)
    _check_spacing(stored.header.grid, modality, path)
    notices, volumes = list(stored.header.notices), []
    finite = np.ones(1, dtype=bool)
    for voxels in np.moveaxis(stored.voxels, -1, 0) if stored.voxels.ndim == 4 else [stored.voxels]:
        volume = _Stored(path, stored.header, voxels).reoriented(modality, np.float32)
        finite = finite & np.isfinite(volume.data)
        data, found = _replace_nonfinite(cast(FloatMap, volume.data), path)
        volumes.append(volume.with_data(data))
        notices += found
    return Series(tuple(volumes), finite, stored.header.has_orientation, tuple(notices))


def read_volume(path: Path, modality: Modality) -> tuple[Volume, tuple[Notice, ...]]:
    """Read one scan as float32 in RAS+ order, with everything a user must be told about it.

    Scaled integers are scaled; a trailing axis of length one is dropped. Where sform and
    qform disagree the sform is used and a notice says so. Up to 90 % of non-finite voxels
    (the background of many QSM) become 0, with a notice.

    Raises
    ------
    InputError
        If the file is missing, unreadable, damaged or not NIfTI; is a series, a single slice,
        complex or RGB; or holds nothing but one value.
    GeometryError
        If the voxel size or affine is invalid, or the voxels are too large for the modality.
    """
    stored = _read_stored(path)
    _check_spacing(stored.header.grid, modality, path)
    volume = stored.reoriented(modality, np.float32)
    data, notices = _replace_nonfinite(cast(FloatMap, volume.data), path)
    return volume.with_data(data), stored.header.notices + notices


def read_mask(path: Path, reference: Volume) -> BoolMap:
    """Read a mask on the grid of `reference`: (I, J, K), true where the file exceeds 0.5.

    The file may be stored in another orientation, as long as its voxels are the same.

    Raises
    ------
    InputError
        If the file cannot be read as by :func:`read_volume`, or the mask is empty.
    GeometryError
        If the mask lies on another grid.
    """
    volume = _read_stored(path).reoriented(Modality.MASK, np.float32)
    _check_on_grid(volume, reference)
    mask = cast(FloatMap, volume.data) > 0.5
    if not mask.any():
        raise InputError(f"the mask {path} is empty; wanted voxels above 0.5 inside the brain")
    return mask


def read_label_map(
    path: Path, *, reference: Volume | None = None, allowed: Collection[int] | None = None
) -> Volume:
    """Read a label map as int32 in RAS+ order; it may be all background.

    Parameters
    ----------
    path : Path
        The label map.
    reference : Volume, optional
        The scan on whose grid it must lie.
    allowed : collection of int, optional
        The labels it may hold; 0 is always allowed.

    Raises
    ------
    InputError
        If the file cannot be read as by :func:`read_volume`, a value is no whole number from
        0 on, or a label is not allowed.
    GeometryError
        If the labels lie on another grid than `reference`.
    """
    volume = _read_labels(path)
    if reference is not None:
        _check_on_grid(volume, reference)
    if allowed is not None:
        _check_allowed(cast(npt.NDArray[np.int32], volume.data), allowed, path)
    return volume


def read_probabilities(path: Path, *, reference: Volume) -> FloatMap:
    """Read a map of probabilities on the grid of `reference`: (I, J, K), float32, 0 to 1.

    Raises
    ------
    InputError
        If the file cannot be read as by :func:`read_volume`, or a value is not within 0 to 1.
    GeometryError
        If the map lies on another grid.
    """
    volume = _read_stored(path).reoriented(Modality.MASK, np.float32)
    _check_on_grid(volume, reference)
    data = cast(FloatMap, volume.data)
    low, high = float(data.min()), float(data.max())
    if not (low >= 0 and high <= 1):  # also false for NaN
        raise InputError(
            f"{path} reaches from {low:g} to {high:g}; wanted probabilities from 0 to 1: "
            "scale the map, or give the right one"
        )
    return data


def write_map(
    data: npt.NDArray[np.generic], like: Volume, path: Path, *, dtype: npt.DTypeLike
) -> None:
    """Write a map that lies on the grid of `like` onto the native grid of `like`.

    Axes are flipped and permuted back, nothing is interpolated: shape and affine are those of
    the file that `like` was read from. The same map gives the same bytes. The file is
    gzip-compressed if its name ends in ``.gz`` and appears only when it is complete.

    Parameters
    ----------
    data : (I, J, K) array
        Values in the RAS+ order of `like.data`.
    like : Volume
        The scan that defines both grids.
    path : Path
        Target; its folder is made when absent.
    dtype : uint8, int16, int32 or float32
        How values are stored.

    Raises
    ------
    GeometryError
        If `data` does not lie on the grid of `like`, or `like.native` has other voxels.
    ValueError
        If a value cannot be stored as an integer `dtype`.
    OutputError
        If the file cannot be written.
    """
    if data.shape != like.data.shape:
        raise GeometryError(
            f"a map of shape {data.shape} cannot be written on the grid of "
            f"{like.name or like.modality} {like.data.shape}; wanted the same shape"
        )
    native = like.native or like.grid
    back = orientations.ornt_transform(
        orientations.axcodes2ornt("RAS"), _orientation_to_ras(native, like)
    )
    stored = _as_stored_type(orientations.apply_orientation(data, back), np.dtype(dtype))
    content = _image(stored, native.affine).to_bytes()
    if path.name.endswith(".gz"):
        content = gzip.compress(content, compresslevel=4, mtime=0)
    write_bytes(path, content)


# ---- from bytes ------------------------------------------------------------


def _read_stored(path: Path, *, series: bool = False) -> _Stored:
    with _readable(path), path.open("rb") as file:
        is_gzip = file.peek(2)[:2] == _GZIP_MAGIC
        stream = cast(IO[bytes], gzip.GzipFile(fileobj=file)) if is_gzip else file
        header = parse_header(stream.read(LARGEST_HEADER_BYTES), path, series=series)
        stream.seek(header.offset)
        content = _read_exactly(stream, header.n_bytes)
        while is_gzip and stream.read(_CHUNK_BYTES):
            pass  # only at the end does gzip compare its checksum
    shape = header.grid.shape + ((header.n_volumes,) if header.n_volumes > 1 else ())
    voxels = content.view(header.dtype).reshape(shape, order="F")
    return _Stored(path, header, voxels)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong while a file is read into one sentence that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}; check the path") from error
    except IsADirectoryError as error:
        raise InputError(f"{path} is a folder; wanted a NIfTI file (.nii or .nii.gz)") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is truncated or damaged ({error}); copy it again") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"cannot read {path}: {reason}; check the path and its rights") from error
    except MemoryError as error:
        raise InputError(f"{path} does not fit into memory; crop or resample it") from error


def _read_exactly(stream: IO[bytes], n_bytes: int) -> npt.NDArray[np.uint8]:
    """Read `n_bytes` without trusting that a damaged header asks for a sane number."""
    content = np.empty(n_bytes, dtype=np.uint8)  # the system commits what is filled only
    filled = 0
    while filled < n_bytes:
        chunk = stream.read(min(_CHUNK_BYTES, n_bytes - filled))
        if not chunk:
            raise EOFError(f"{filled} bytes of voxels found, {n_bytes} wanted")
        content[filled : filled + len(chunk)] = np.frombuffer(chunk, dtype=np.uint8)
        filled += len(chunk)
    return content


# ---- grids -----------------------------------------------------------------


def _check_spacing(grid: Grid, modality: Modality, path: Path) -> None:
    limit = MAX_SPACING_MM.get(modality, math.inf)
    if max(grid.spacing_mm) > limit + 1e-3:
        raise GeometryError(
            f"{path} has voxels of {times_text(grid.spacing_mm)} mm; wanted at most {limit:g} mm "
            f"for {modality}: findings of a few mm cannot be told in thicker slices"
        )
    if min(grid.spacing_mm) < MIN_SPACING_MM:
        raise GeometryError(
            f"{path} has voxels of {times_text(grid.spacing_mm)} mm; wanted at least "
            f"{MIN_SPACING_MM} mm: if the header is in metres, convert it to mm"
        )


def _check_on_grid(volume: Volume, reference: Volume) -> None:
    check_same_grid(
        reference.grid,
        volume.grid,
        first_name=reference.name or str(reference.modality),
        second_name=volume.name,
    )


def _orientation_to_ras(native: Grid, like: Volume) -> npt.NDArray[np.float64]:
    """Orientation of the native grid, once it is sure that its voxels are those of `like`."""
    orientation = orientations.io_orientation(native.affine)
    canonical = Grid(
        cast(Shape, tuple(native.shape[axis] for axis in np.argsort(orientation[:, 0]))),
        native.affine @ orientations.inv_ornt_aff(orientation, native.shape),
    )
    check_same_grid(
        like.grid, canonical, first_name=like.name or "the map", second_name="its native grid"
    )
    return cast(npt.NDArray[np.float64], orientation)


# ---- values ----------------------------------------------------------------


def _replace_nonfinite(data: FloatMap, path: Path) -> tuple[FloatMap, tuple[Notice, ...]]:
    """Set NaN and infinite voxels to 0; refuse an image that holds nothing else of use."""
    finite = np.isfinite(data)
    n_bad = data.size - int(np.count_nonzero(finite))
    share = n_bad / data.size
    if share > MAX_NONFINITE_SHARE:
        raise InputError(
            f"{n_bad} of {data.size} voxels ({share:.0%}) of {path} are NaN or infinite; "
            "wanted an image with finite values"
        )
    lowest = data.min(initial=np.inf, where=finite)
    if lowest == data.max(initial=-np.inf, where=finite):
        raise InputError(f"every voxel of {path} is {lowest:g}; wanted an image: export it again")
    if n_bad == 0:
        return data, ()
    message = f"{n_bad} voxels ({share:.2%}) of {path} are NaN or infinite; they were set to 0"
    return np.where(finite, data, np.float32(0)), (Notice("read", message),)


def _read_labels(path: Path) -> Volume:
    """Read a label map as int32; integers as stored need no test for whole numbers."""
    stored = _read_stored(path)
    dtype = stored.voxels.dtype
    if dtype.kind in "iu" and dtype.itemsize <= 2 and not stored.header.is_scaled:
        volume = stored.reoriented(Modality.DSEG, np.int32)
        lowest = int(volume.data.min())
        if lowest < 0:
            raise InputError(
                f"{path} holds {lowest}; wanted a label map of whole numbers from 0 on"
            )
        return volume
    volume = stored.reoriented(Modality.DSEG, np.float64)
    return volume.with_data(_whole_numbers(cast(npt.NDArray[np.float64], volume.data), path))


def _whole_numbers(data: npt.NDArray[np.float64], path: Path) -> npt.NDArray[np.int32]:
    labels = np.nan_to_num(data, nan=-1.0, posinf=-1.0, neginf=-1.0)
    wrong = (labels < 0) | (labels > np.iinfo(np.int32).max) | (labels != np.rint(labels))
    if wrong.any():
        raise InputError(
            f"{path} holds {data[wrong][0]:g} ({int(wrong.sum())} such voxels); "
            "wanted a label map of whole numbers from 0 on, not an image or a probability"
        )
    return labels.astype(np.int32)


def _check_allowed(labels: npt.NDArray[np.int32], allowed: Collection[int], path: Path) -> None:
    unknown = sorted(set(np.unique(labels[labels != 0]).tolist()) - set(allowed))
    if unknown:
        raise InputError(
            f"{path} holds the unknown labels {unknown[:10]}; known are {sorted(allowed)}: "
            "correct the label map"
        )


def _as_stored_type(data: npt.NDArray[np.generic], dtype: np.dtype[Any]) -> npt.NDArray[np.generic]:
    """Cast for storage; a label that does not fit is an error, never another label."""
    with np.errstate(invalid="ignore"):
        stored = data.astype(dtype, order="F")
    if dtype.kind in "iu" and not np.array_equal(stored, data):
        raise ValueError(f"values of type {data.dtype} do not fit into {dtype} unchanged")
    return stored


def _image(stored: npt.NDArray[np.generic], affine: Affine) -> Any:  # noqa: ANN401
    """Make a NIfTI-1 image whose sform and qform both say `affine`."""
    image = Nifti1Image(stored, None)
    image.set_sform(affine, code=_SCANNER_CODE)
    image.set_qform(affine, code=_SCANNER_CODE)
    grid = Grid(cast(Shape, stored.shape), affine)
    as_qform = Grid(grid.shape, np.array(image.get_qform(), dtype=np.float64))
    if not grid.matches(as_qform, tolerance_mm=_QFORM_TOLERANCE * max(grid.shape)):
        # a quaternion holds no shear: declare what it cannot say as unknown
        image.set_qform(affine, code=0)
    image.header.set_xyzt_units("mm", "sec")
    return image
