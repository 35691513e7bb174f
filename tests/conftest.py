"""Shared phantoms. No two axes have equal length or spacing, so a swapped axis fails."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image

PHANTOM_SHAPE = (7, 8, 9)

WriteNifti = Callable[..., Path]


@pytest.fixture
def phantom_shape() -> tuple[int, int, int]:
    """Three unequal axes."""
    return PHANTOM_SHAPE


@pytest.fixture
def phantom_affine() -> np.ndarray:
    """Oblique, left-handed, anisotropic grid: 0.5 x 0.75 x 2 mm, rotated 30 deg about z."""
    cosine, sine = np.cos(np.pi / 6), np.sin(np.pi / 6)
    affine = np.eye(4)
    rotation = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    affine[:3, :3] = rotation @ np.diag([-0.5, 0.75, 2.0])
    affine[:3, 3] = [10, -20, 30]
    return affine


@pytest.fixture
def phantom_data() -> np.ndarray:
    """Float32 image in which every voxel differs from all others."""
    values = np.random.default_rng(7).permutation(np.prod(PHANTOM_SHAPE)) + 1
    return values.reshape(PHANTOM_SHAPE).astype(np.float32)


@pytest.fixture
def write_nifti(tmp_path: Path) -> WriteNifti:
    """Write ``tmp_path / name`` with sform and qform set, and return its path.

    ``write_nifti(data, affine, name="image.nii.gz", image_class=Nifti1Image)``
    """

    def write(
        data: np.ndarray,
        affine: np.ndarray,
        name: str = "image.nii.gz",
        *,
        image_class: type[Nifti1Image] = Nifti1Image,
    ) -> Path:
        image = image_class(data, affine)
        image.set_sform(affine, code=1)
        image.set_qform(affine, code=1)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.to_filename(path)
        return path

    return write


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the data beside the project; the test is skipped where it is absent."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("DEEPMIR_SHARED", beside))
    if not folder.is_dir():
        pytest.skip(f"no data folder at {folder}; DEEPMIR_SHARED names it elsewhere")
    return folder
