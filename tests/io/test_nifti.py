"""NIfTI: known answers on awkward grids, every refusal, and that nothing moves or is lost."""

import gzip
import re
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel import orientations
from nibabel.nifti1 import Nifti1Image
from nibabel.nifti2 import Nifti2Image

from deepmir.errors import GeometryError, InputError, OutputError
from deepmir.geometry import Grid
from deepmir.io.nifti import (
    read_label_map,
    read_mask,
    read_probabilities,
    read_volume,
    write_map,
)
from deepmir.volume import Modality, Volume

PIXDIM, QFORM_CODE, SFORM_CODE, SROW = 76, 252, 254, 280  # byte offsets in a NIfTI-1 header

AXIS_ORDERS = ["RAS", "LAS", "LPS", "LIA", "PIR", "SRP", "ALI", "IRP", "RSA", "AIL", "IPL"]


def patch_header(path: Path, offset: int, form: str, *values: float) -> Path:
    """Overwrite header fields of an uncompressed file, as a careless converter would."""
    content = bytearray(path.read_bytes())
    struct.pack_into(form, content, offset, *values)
    path.write_bytes(content)
    return path


def one_sentence(error: pytest.ExceptionInfo[Exception], path: Path) -> bool:
    """Tell whether a message names the file and is short."""
    text = str(error.value)
    return str(path) in text and len(text) < 400 + len(str(path))


@pytest.fixture
def plain_file(write_nifti, phantom_data, phantom_affine):
    return write_nifti(phantom_data, phantom_affine, "plain.nii")


# ---- known answers ---------------------------------------------------------


@pytest.mark.parametrize("codes", AXIS_ORDERS)
@pytest.mark.parametrize("name", ["image.nii", "image.nii.gz"])
def test_any_orientation_reads_as_the_same_scan(
    write_nifti, phantom_data, phantom_affine, codes, name
):
    straight, _ = read_volume(write_nifti(phantom_data, phantom_affine, name), Modality.SWI)
    target = orientations.axcodes2ornt(codes)
    image = Nifti1Image(phantom_data, phantom_affine)
    turn = orientations.ornt_transform(orientations.io_orientation(image.affine), target)
    turned = image.as_reoriented(turn)
    path = write_nifti(np.asarray(turned.dataobj), turned.affine, f"turned-{name}")
    volume, notices = read_volume(path, Modality.SWI)
    assert notices == ()
    assert np.array_equal(volume.data, straight.data)
    assert np.allclose(volume.affine, straight.affine, atol=1e-5)
    assert nibabel.aff2axcodes(volume.affine) == ("R", "A", "S")
    assert nibabel.aff2axcodes(volume.native.affine) == tuple(codes)


def test_a_volume_is_contiguous_float32_with_its_name_and_native_grid(plain_file, phantom_affine):
    volume, _ = read_volume(plain_file, Modality.CHIMAP)
    assert volume.data.dtype == np.float32
    assert volume.data.flags.c_contiguous
    assert volume.data.flags.writeable
    assert (volume.name, volume.modality) == (str(plain_file), Modality.CHIMAP)
    assert volume.native.shape == (7, 8, 9)
    assert np.allclose(volume.native.affine, phantom_affine, atol=1e-5)


@pytest.mark.parametrize("image_class", [Nifti1Image, Nifti2Image])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_every_stored_type_reads_as_nibabel_reads_it(
    write_nifti, phantom_affine, image_class, dtype, byte_order
):
    data = np.arange(2 * 3 * 4).reshape(2, 3, 4).astype(np.dtype(dtype).newbyteorder(byte_order))
    path = write_nifti(data, phantom_affine, "typed.nii.gz", image_class=image_class)
    volume, _ = read_volume(path, Modality.T2W)
    expected = nibabel.as_closest_canonical(nibabel.load(path)).get_fdata()
    assert np.array_equal(volume.data, expected)


def test_scaled_integers_are_scaled(tmp_path, phantom_affine):
    image = Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), phantom_affine)
    image.header.set_slope_inter(0.001, -0.005)
    image.to_filename(tmp_path / "chi.nii.gz")
    volume, _ = read_volume(tmp_path / "chi.nii.gz", Modality.CHIMAP)
    assert volume.data.min() == pytest.approx(-0.005)
    assert volume.data.max() == pytest.approx(0.018)


@pytest.mark.parametrize("tail", [(1,), (1, 1), (1, 1, 1, 1)])
def test_a_series_of_one_volume_is_that_volume(write_nifti, phantom_data, phantom_affine, tail):
    path = write_nifti(phantom_data.reshape(*phantom_data.shape, *tail), phantom_affine)
    assert read_volume(path, Modality.SWI)[0].data.shape == (7, 8, 9)


def test_a_gzip_file_is_known_by_its_content_not_its_name(plain_file, phantom_data):
    plain_file.write_bytes(gzip.compress(plain_file.read_bytes()))
    assert read_volume(plain_file, Modality.SWI)[0].data.sum() == phantom_data.sum()


@pytest.mark.parametrize(
    "name", ["Gehirn-ü-脑 😀.nii.gz", "x" * 240 + ".nii.gz", "deep/" * 200 + "a.nii"]
)
def test_non_ascii_and_very_long_paths_work(write_nifti, phantom_data, phantom_affine, name):
    path = write_nifti(phantom_data, phantom_affine, name)
    volume, _ = read_volume(path, Modality.SWI)
    write_map(volume.data, volume, path, dtype=np.float32)
    assert np.array_equal(read_volume(path, Modality.SWI)[0].data, volume.data)


# ---- notices ---------------------------------------------------------------


def test_a_conflict_of_sform_and_qform_is_told_and_the_sform_used(plain_file):
    patch_header(plain_file, SROW + 12, "<f", 15.0)  # the sform's first shift was 10 mm
    volume, (notice,) = read_volume(plain_file, Modality.SWI)
    assert re.search(r"5\.0 mm apart; the sform was used", notice.message)
    assert str(plain_file) in notice.message
    assert volume.native.affine[0, 3] == 15


def test_a_tiny_difference_of_sform_and_qform_is_no_conflict(plain_file):
    patch_header(plain_file, SROW + 12, "<f", 10.1)
    assert read_volume(plain_file, Modality.SWI)[1] == ()


def test_a_qform_alone_is_used(plain_file, phantom_affine):
    patch_header(plain_file, SFORM_CODE, "<h", 0)
    volume, notices = read_volume(plain_file, Modality.SWI)
    assert notices == ()
    assert np.allclose(volume.native.affine, phantom_affine, atol=1e-5)


def test_a_voxel_size_that_contradicts_a_lone_sform_is_told(plain_file):
    patch_header(plain_file, QFORM_CODE, "<h", 0)
    assert read_volume(plain_file, Modality.SWI)[1] == ()
    patch_header(plain_file, PIXDIM + 4, "<3f", 1, 1, 1)
    volume, (notice,) = read_volume(plain_file, Modality.SWI)
    assert "1 × 1 × 1 mm, but its sform 0.5 × 0.75 × 2 mm; the sform was used" in notice.message
    assert volume.native.spacing_mm == pytest.approx((0.5, 0.75, 2.0))


def test_no_orientation_at_all_is_told(plain_file):
    patch_header(plain_file, QFORM_CODE, "<2h", 0, 0)
    volume, (notice,) = read_volume(plain_file, Modality.SWI)
    assert "left and right may be exchanged" in notice.message
    assert volume.native.spacing_mm == pytest.approx((0.5, 0.75, 2.0))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_some_nonfinite_voxels_become_zero_with_a_notice(
    write_nifti, phantom_data, phantom_affine, bad
):
    phantom_data[:, :4] = bad
    path = write_nifti(phantom_data, phantom_affine)
    volume, (notice,) = read_volume(path, Modality.CHIMAP)
    assert notice.message.startswith(f"252 voxels (50.00%) of {path} are NaN or infinite")
    assert (notice.stage, notice.level) == ("read", "warning")
    assert np.count_nonzero(volume.data == 0) == 252


# ---- refusals: what is no readable file ------------------------------------


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"there is no file .*nothing\.nii\.gz") as error:
        read_volume(tmp_path / "nothing.nii.gz", Modality.SWI)
    assert one_sentence(error, tmp_path / "nothing.nii.gz")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="is a folder; wanted a NIfTI file"):
        read_volume(tmp_path, Modality.SWI)


def test_a_path_that_no_disk_can_hold_is_refused(tmp_path):
    with pytest.raises(InputError, match="too long"):
        read_volume(tmp_path / ("x" * 300), Modality.SWI)


def test_a_file_without_permission_is_refused(plain_file, monkeypatch):
    def forbidden(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied", str(plain_file))

    monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(InputError, match=r"cannot read .*Permission denied"):
        read_volume(plain_file, Modality.SWI)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (gzip.compress(b"", mtime=0), "is empty"),
        (b"hello", "not a NIfTI file"),
        (b"\0" * 2000, "not a NIfTI file"),
        (b"\x89PNG\r\n" * 300, "not a NIfTI file"),
        (b"\x1f\x8b" + b"broken" * 100, "truncated or damaged"),
        (b"\0" * 128 + b"DICM" + b"\0" * 500, "is a DICOM file"),
    ],
)
def test_what_is_no_nifti_is_refused(tmp_path, content, said):
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=said) as error:
        read_volume(path, Modality.SWI)
    assert one_sentence(error, path)


def test_a_header_that_points_to_another_file_is_refused(plain_file):
    patch_header(plain_file, 344, "<4s", b"ni1\0")
    with pytest.raises(InputError, match=r"half of a \.hdr/\.img pair"):
        read_volume(plain_file, Modality.SWI)


@pytest.mark.parametrize("name", ["cut.nii", "cut.nii.gz"])
@pytest.mark.parametrize("kept", [0.2, 0.5, 0.99])
def test_a_truncated_file_is_refused(write_nifti, phantom_data, phantom_affine, name, kept):
    path = write_nifti(phantom_data, phantom_affine, name)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(InputError, match=r"truncated or damaged|not a NIfTI file") as error:
        read_volume(path, Modality.SWI)
    assert one_sentence(error, path)


def test_a_flipped_bit_in_a_gzip_file_is_found(write_nifti, phantom_data, phantom_affine):
    path = write_nifti(phantom_data, phantom_affine)
    content = bytearray(path.read_bytes())
    content[-6] ^= 1  # in the checksum itself
    path.write_bytes(content)
    with pytest.raises(InputError, match="truncated or damaged"):
        read_volume(path, Modality.SWI)


@pytest.mark.parametrize("length", [200, 32767])
def test_a_header_that_promises_a_huge_image_is_refused(plain_file, length):
    patch_header(plain_file, 42, "<3h", length, length, length)
    with pytest.raises(InputError, match=r"truncated or damaged|does not fit into memory"):
        read_volume(plain_file, Modality.SWI)


def test_an_image_beyond_the_memory_is_refused(plain_file, monkeypatch):
    def exhausted(*_args, **_kwargs):
        raise MemoryError

    monkeypatch.setattr("deepmir.io.nifti.np.empty", exhausted)
    with pytest.raises(InputError, match="does not fit into memory") as error:
        read_volume(plain_file, Modality.SWI)
    assert one_sentence(error, plain_file)


def test_an_impossible_shape_is_refused(plain_file):
    patch_header(plain_file, 42, "<h", -7)
    with pytest.raises(InputError, match="impossible shape"):
        read_volume(plain_file, Modality.SWI)


@pytest.mark.parametrize("field", [(70, "<h", 9999), (70, "<h", 1), (108, "<f", np.nan)])
def test_a_damaged_header_is_refused(plain_file, field):
    patch_header(plain_file, *field)
    with pytest.raises(InputError, match=r"damaged NIfTI header|one number per voxel") as error:
        read_volume(plain_file, Modality.SWI)
    assert one_sentence(error, plain_file)


# ---- refusals: what is no usable scan --------------------------------------


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((7, 8, 9, 2), "is a series of shape"),
        ((7, 8, 9, 1, 3), "is a series of shape"),
        ((7, 8, 1, 9), "is a series of shape"),
        ((7, 8, 1), "is a single slice"),
        ((1, 8, 9), "is a single slice"),
        ((7, 8), "is a single slice"),
    ],
)
def test_series_and_slices_are_refused(write_nifti, phantom_affine, shape, said):
    data = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    path = write_nifti(data, phantom_affine)
    with pytest.raises(InputError, match=said) as error:
        read_volume(path, Modality.SWI)
    assert one_sentence(error, path)


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_complex_images_are_refused(write_nifti, phantom_data, phantom_affine, dtype):
    path = write_nifti(phantom_data.astype(dtype), phantom_affine)
    with pytest.raises(InputError, match="is complex"):
        read_volume(path, Modality.SWI)


def test_colour_pictures_are_refused(write_nifti, phantom_shape, phantom_affine):
    colour = np.zeros(phantom_shape, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(InputError, match="is a colour picture"):
        read_volume(write_nifti(colour, phantom_affine), Modality.SWI)


@pytest.mark.parametrize("value", [0, 7])
def test_a_constant_image_is_refused(write_nifti, phantom_shape, phantom_affine, value):
    path = write_nifti(np.full(phantom_shape, value, dtype=np.int16), phantom_affine)
    with pytest.raises(InputError, match=f"every voxel of .* is {value}; wanted") as error:
        read_volume(path, Modality.SWI)
    assert one_sentence(error, path)


@pytest.mark.parametrize(("n_finite", "ok"), [(504, True), (51, True), (50, False), (0, False)])
def test_an_image_of_mostly_nan_is_refused(write_nifti, phantom_data, phantom_affine, n_finite, ok):
    phantom_data.ravel()[n_finite:] = np.nan
    path = write_nifti(phantom_data, phantom_affine)
    if ok:
        assert len(read_volume(path, Modality.CHIMAP)[1]) == (n_finite < 504)
    else:
        with pytest.raises(InputError, match=rf"{504 - n_finite} of 504 voxels .* NaN"):
            read_volume(path, Modality.CHIMAP)


def test_nan_around_a_constant_is_refused(write_nifti, phantom_data, phantom_affine):
    phantom_data[:] = 3
    phantom_data[0] = np.nan
    with pytest.raises(InputError, match="every voxel"):
        read_volume(write_nifti(phantom_data, phantom_affine), Modality.CHIMAP)


def test_numbers_too_large_for_float32_count_as_infinite(write_nifti, phantom_data, phantom_affine):
    data = phantom_data.astype(np.float64)
    data[0, 0, 0] = 1e300
    volume, (notice,) = read_volume(write_nifti(data, phantom_affine), Modality.SWI)
    assert notice.message.startswith("1 voxels")
    assert np.isfinite(volume.data).all()


# ---- refusals: grids -------------------------------------------------------


@pytest.mark.parametrize("step", [0.0, -1.0, np.nan, np.inf])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_impossible_voxel_size_is_refused(plain_file, step, axis):
    patch_header(plain_file, PIXDIM + 4 * (axis + 1), "<f", step)
    with pytest.raises(GeometryError, match="wanted positive numbers") as error:
        read_volume(plain_file, Modality.SWI)
    assert one_sentence(error, plain_file)


@pytest.mark.parametrize("row", [(0, 0, 0, 0), (np.nan, 0, 0, 0)])
def test_a_singular_affine_is_refused(plain_file, row):
    patch_header(plain_file, SROW, "<4f", *row)
    with pytest.raises(GeometryError, match="unusable sform: affine must be finite") as error:
        read_volume(plain_file, Modality.SWI)
    assert one_sentence(error, plain_file)


def test_an_impossible_qform_is_refused_when_it_is_needed(plain_file):
    patch_header(plain_file, 256, "<3f", 9.0, 9.0, 9.0)
    patch_header(plain_file, SFORM_CODE, "<h", 0)
    with pytest.raises(GeometryError, match="unusable qform"):
        read_volume(plain_file, Modality.SWI)


@pytest.mark.parametrize(
    ("modality", "thickness_mm", "ok"),
    [
        (Modality.SWI, 5.0, True),
        (Modality.SWI, 5.1, False),
        (Modality.CHIMAP, 5.0, True),
        (Modality.CHIMAP, 5.1, False),
        (Modality.T2W, 7.0, True),
        (Modality.T2W, 7.1, False),
        (Modality.T2W, 0.0009, False),
    ],
)
def test_voxel_limits(write_nifti, phantom_data, modality, thickness_mm, ok):
    affine = np.diag([0.9, -0.9, thickness_mm, 1])
    path = write_nifti(phantom_data, affine)
    if ok:
        assert read_volume(path, modality)[0].native.spacing_mm[2] == pytest.approx(thickness_mm)
    else:
        with pytest.raises(GeometryError, match=r"0\.9 × 0\.9 × .* mm; wanted at") as error:
            read_volume(path, modality)
        assert one_sentence(error, path)


# ---- masks and label maps --------------------------------------------------


def test_a_mask_may_be_stored_in_another_orientation(write_nifti, phantom_data, phantom_affine):
    reference, _ = read_volume(write_nifti(phantom_data, phantom_affine, "swi.nii"), Modality.SWI)
    canonical = (reference.data > 250).astype(np.uint8) * 255
    mask = read_mask(write_nifti(canonical, reference.affine, "mask.nii"), reference)
    assert mask.dtype == np.bool_
    assert np.array_equal(mask, reference.data > 250)


def test_a_mask_on_another_grid_is_refused(write_nifti, phantom_data, phantom_affine):
    reference, _ = read_volume(write_nifti(phantom_data, phantom_affine, "swi.nii"), Modality.SWI)
    shifted = phantom_affine.copy()
    shifted[2, 3] += 1
    path = write_nifti(np.ones_like(phantom_data), shifted, "mask.nii")
    with pytest.raises(GeometryError, match="is not on the grid of") as error:
        read_mask(path, reference)
    assert one_sentence(error, path)
    assert reference.name in str(error.value)


@pytest.mark.parametrize("value", [0, 0.5, np.nan])
def test_an_empty_mask_is_refused(write_nifti, phantom_data, phantom_affine, value):
    reference, _ = read_volume(write_nifti(phantom_data, phantom_affine, "swi.nii"), Modality.SWI)
    path = write_nifti(np.full_like(phantom_data, value), phantom_affine, "mask.nii")
    with pytest.raises(InputError, match=r"the mask .* is empty") as error:
        read_mask(path, reference)
    assert one_sentence(error, path)


def test_a_label_map_is_read_as_whole_numbers(write_nifti, phantom_data, phantom_affine):
    reference, _ = read_volume(write_nifti(phantom_data, phantom_affine, "swi.nii"), Modality.SWI)
    path = write_nifti((phantom_data % 4), phantom_affine, "dseg.nii")
    labels = read_label_map(path, reference=reference, allowed=(1, 2, 3))
    assert labels.data.dtype == np.int32
    assert np.array_equal(labels.data, reference.data % 4)
    with pytest.raises(InputError, match=r"unknown labels \[3\]; known are \[1, 2\]"):
        read_label_map(path, allowed=[1, 2])
    elsewhere = Volume(phantom_data, np.eye(4), Modality.SWI, name="elsewhere.nii")
    with pytest.raises(GeometryError, match="elsewhere"):
        read_label_map(path, reference=elsewhere)


def test_a_label_map_may_be_empty(write_nifti, phantom_shape, phantom_affine):
    path = write_nifti(np.zeros(phantom_shape, dtype=np.uint8), phantom_affine)
    assert not read_label_map(path).data.any()


@pytest.mark.parametrize("bad", [0.5, -1, np.nan, np.inf, 3e9])
def test_what_is_no_label_is_refused(write_nifti, phantom_data, phantom_affine, bad):
    phantom_data[1, 2, 3] = bad
    path = write_nifti(phantom_data, phantom_affine)
    with pytest.raises(InputError, match="wanted a label map of whole numbers") as error:
        read_label_map(path)
    assert one_sentence(error, path)


# ---- writing ---------------------------------------------------------------


def test_a_map_returns_to_the_native_grid(write_nifti, tmp_path, phantom_data, phantom_affine):
    source = write_nifti(phantom_data, phantom_affine, "swi.nii.gz")
    volume, _ = read_volume(source, Modality.SWI)
    write_map(volume.data * 2, volume, tmp_path / "out" / "map.nii.gz", dtype=np.float32)
    written = nibabel.load(tmp_path / "out" / "map.nii.gz")
    assert np.array_equal(written.get_fdata(), phantom_data * 2)
    for form in (written.get_sform(coded=True), written.get_qform(coded=True)):
        assert form[1] == 1
        assert np.allclose(form[0], phantom_affine, atol=1e-5)
    assert written.header.get_xyzt_units() == ("mm", "sec")
    assert written.header.get_zooms() == pytest.approx((0.5, 0.75, 2.0))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["map.nii.gz"]


@given(
    seed=st.integers(0, 2**32 - 1),
    codes=st.sampled_from(AXIS_ORDERS),
    dtype=st.sampled_from([np.uint8, np.int16, np.int32, np.float32]),
)
@settings(max_examples=60, deadline=None)
def test_writing_and_reading_is_the_identity(tmp_path_factory, seed, codes, dtype):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(2, 7, size=3).tolist())
    native = Nifti1Image(np.zeros(shape, np.uint8), np.diag([*rng.uniform(0.3, 3, 3), 1]))
    turn = orientations.ornt_transform([[0, 1], [1, 1], [2, 1]], orientations.axcodes2ornt(codes))
    native = native.as_reoriented(turn)
    canonical = nibabel.as_closest_canonical(native)
    data = rng.integers(0, 200, canonical.shape).astype(dtype)
    like = Volume(data, canonical.affine, Modality.SWI, native=Grid(native.shape, native.affine))
    path = tmp_path_factory.mktemp("map") / "map.nii"
    before = data.copy()
    write_map(data, like, path, dtype=dtype)
    again = read_label_map(path, reference=like)
    assert np.array_equal(again.data, before)
    assert np.array_equal(data, before)
    assert again.native.shape == native.shape
    assert np.allclose(again.native.affine, native.affine, atol=1e-5)
    assert nibabel.load(path).get_data_dtype() == dtype


def test_a_sheared_grid_is_written_without_a_conflict(tmp_path, phantom_data):
    affine = np.array([[1, 0.3, 0, 0], [0, 1.1, 0, 0], [0, 0, 1.2, 0], [0, 0, 0, 1.0]])
    like = Volume(phantom_data, affine, Modality.SWI)
    write_map(phantom_data, like, tmp_path / "sheared.nii", dtype=np.float32)
    volume, notices = read_volume(tmp_path / "sheared.nii", Modality.SWI)
    assert notices == ()
    assert np.allclose(volume.affine, affine, atol=1e-5)


def test_the_same_map_gives_the_same_bytes(tmp_path, phantom_data):
    like = Volume(phantom_data, np.diag([1, 2, 3, 1.0]), Modality.SWI)
    for name in ("one.nii.gz", "two.nii.gz"):
        write_map(phantom_data, like, tmp_path / name, dtype=np.int16)
    assert (tmp_path / "one.nii.gz").read_bytes() == (tmp_path / "two.nii.gz").read_bytes()


@pytest.mark.parametrize("bad", [300, -1, 0.5, np.nan])
def test_a_value_that_does_not_fit_is_refused(tmp_path, phantom_data, bad):
    like = Volume(phantom_data, np.eye(4), Modality.SWI)
    phantom_data[:] = 1
    phantom_data[0, 0, 0] = bad
    with pytest.raises(ValueError, match="do not fit into uint8"):
        write_map(phantom_data, like, tmp_path / "map.nii", dtype=np.uint8)
    assert list(tmp_path.iterdir()) == []


def test_a_map_of_another_shape_or_native_grid_is_refused(tmp_path, phantom_data):
    like = Volume(phantom_data, np.eye(4), Modality.SWI, name="swi.nii")
    with pytest.raises(GeometryError, match=r"swi\.nii \(7, 8, 9\); wanted the same shape"):
        write_map(phantom_data[1:], like, tmp_path / "map.nii", dtype=np.uint8)
    other = Volume(
        phantom_data, np.eye(4), Modality.SWI, native=Grid((7, 8, 9), np.diag([2, 1, 1, 1.0]))
    )
    with pytest.raises(GeometryError, match="native grid"):
        write_map(phantom_data, other, tmp_path / "map.nii", dtype=np.uint8)


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, phantom_data, monkeypatch):
    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    like = Volume(phantom_data, np.eye(4), Modality.SWI)
    with pytest.raises(OutputError, match=r"cannot write .*map\.nii.*No space left"):
        write_map(phantom_data, like, tmp_path / "map.nii", dtype=np.float32)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.shared
def test_real_scans_read_as_nibabel_reads_them(shared_data):
    paths = sorted((shared_data / "t2w").glob("*.nii.gz"))
    assert paths
    for path in paths:
        volume, _ = read_volume(path, Modality.T2W)
        expected = nibabel.as_closest_canonical(nibabel.load(path))
        assert np.array_equal(volume.data, expected.get_fdata(dtype=np.float32))
        assert np.allclose(volume.affine, expected.affine)


# ---- probabilities ---------------------------------------------------------


def test_probabilities_are_read_on_the_grid_of_a_reference(write_nifti, phantom_affine):
    values = np.linspace(0, 1, 7 * 8 * 9, dtype=np.float32).reshape(7, 8, 9)
    labels = write_nifti(np.zeros((7, 8, 9), dtype=np.uint8), phantom_affine, "labels.nii.gz")
    path = write_nifti(values, phantom_affine, "probseg.nii.gz")
    reference = read_label_map(labels)
    found = read_probabilities(path, reference=reference)
    assert found.dtype == np.float32
    assert sorted(found.ravel()) == pytest.approx(sorted(values.ravel()))
    other = write_nifti(values[:6], phantom_affine, "other.nii.gz")
    with pytest.raises(GeometryError, match="grid"):
        read_probabilities(other, reference=reference)


@pytest.mark.parametrize("wrong", [-0.01, 1.01, np.nan, np.inf])
def test_what_is_no_probability_is_refused(wrong, write_nifti, phantom_affine):
    values = np.full((7, 8, 9), 0.5, dtype=np.float32)
    values[1, 2, 3] = wrong
    path = write_nifti(values, phantom_affine, "probseg.nii.gz")
    labels = write_nifti(np.zeros((7, 8, 9), dtype=np.uint8), phantom_affine, "labels.nii.gz")
    with pytest.raises(InputError, match=r"probseg.nii.gz reaches .* 0 to 1"):
        read_probabilities(path, reference=read_label_map(labels))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32])
def test_labels_are_the_same_however_they_are_stored(dtype, write_nifti, phantom_affine):
    labels = np.zeros((7, 8, 9))
    labels[1, 2, 3], labels[6, 0, 8] = 3, 120
    path = write_nifti(labels.astype(dtype), phantom_affine)
    found = read_label_map(path, allowed=(3, 120)).data
    assert found.dtype == np.int32
    assert sorted(found[found > 0]) == [3, 120]
    with pytest.raises(InputError, match=r"unknown labels \[120\]"):
        read_label_map(path, allowed=(3,))


def test_negative_labels_are_refused_in_integers_too(write_nifti, phantom_affine):
    path = write_nifti(np.full((7, 8, 9), -2, dtype=np.int16), phantom_affine)
    with pytest.raises(InputError, match="holds -2"):
        read_label_map(path)
