"""Shared phantoms. No two axes have equal length or spacing, so a swapped axis fails."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

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


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a hand-made network whose answers are known: see ``tiny_network.py``."""
    return load_test_module("tiny_network").build_tiny_weights(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_weights_with_nuclei(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the same network with a nuclei part: putamen becomes caudate, pallidum nothing."""
    build = load_test_module("tiny_network").build_tiny_weights
    return build(tmp_path_factory.mktemp("tiny-nuclei"), nuclei=True)


@pytest.fixture(scope="session")
def phantom_person() -> Callable[..., Any]:
    """Maker of scans that the tiny network segments exactly: see ``phantom_person.py``."""
    return load_test_module("phantom_person").phantom_person


@pytest.fixture(scope="session")
def whole_study(tmp_path_factory: pytest.TempPathFactory, phantom_person) -> Path:
    """BIDS data set of six phantoms with label maps: see ``study_data.py``; not to be changed."""
    write_study = load_test_module("study_data").write_study
    return write_study(tmp_path_factory.mktemp("study") / "data", phantom_person)


@pytest.fixture
def study(whole_study: Path, tmp_path: Path) -> Path:
    """Copy of the study, to spoil."""
    return Path(shutil.copytree(whole_study, tmp_path / "data"))


@pytest.fixture(scope="session")
def fast_config() -> Any:
    """Give settings that prepare a phantom in a second."""
    from deepmir.config import Config, PreprocessConfig  # noqa: PLC0415

    return Config(preprocess=PreprocessConfig(bias_correction=False, register_t2w=False))


@pytest.fixture(scope="session")
def prepared_study(
    whole_study: Path, tiny_weights: Path, fast_config, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Prepare the study; give its cases by the person's name, not to be changed."""
    from deepmir.model.weights import load_weights  # noqa: PLC0415
    from deepmir.training.experiment import DataChoice, prepare_data  # noqa: PLC0415 - needs torch

    cases, _ = prepare_data(
        DataChoice(data=whole_study),
        tmp_path_factory.mktemp("prepared"),
        weights=load_weights(tiny_weights),
        config=fast_config,
        progress=lambda _: None,
    )
    return cases


@pytest.fixture(scope="session")
def paper_text() -> str:
    """Tiny recipe of the slices part, as TOML."""
    return load_test_module("study_data").PAPER_TEXT


@pytest.fixture(scope="session")
def patch_text() -> str:
    """Tiny recipe of the findings part, as TOML."""
    return load_test_module("study_data").PATCH_TEXT


def load_test_module(name: str) -> ModuleType:
    """Import a module of this folder, which pytest leaves off the path."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def scan_files(tmp_path_factory: pytest.TempPathFactory, phantom_person) -> dict[str, Path]:
    """Files of one person for the tiny network: swi, qsm, t2w, truth, mask; never to be changed."""
    folder, person = tmp_path_factory.mktemp("person"), phantom_person()
    images = {
        "swi": (person.scans.swi.data, "sub-01_swi.nii.gz"),
        "qsm": (person.scans.chimap.data, "sub-01_Chimap.nii.gz"),
        "t2w": (person.scans.t2w.data, "sub-01_T2w.nii.gz"),
        "truth": (person.findings, "sub-01_truth.nii.gz"),
        "mask": (person.brain.astype(np.uint8), "sub-01_mask.nii.gz"),
    }
    files = {}
    for name, (data, file_name) in images.items():
        files[name] = folder / file_name
        image = Nifti1Image(data, person.scans.swi.affine)
        image.set_sform(person.scans.swi.affine, code=1)
        image.set_qform(person.scans.swi.affine, code=1)
        image.to_filename(files[name])
    return files
