"""A folder of tiny cases, tiny anatomies, and a study of phantoms."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image

from deepmir.config import Config, PreprocessConfig
from deepmir.model.weights import load_weights
from deepmir.training.anatomy_samples import fold_head
from deepmir.training.experiment import DataChoice, prepare_data
from deepmir.training.patches import open_case


FAST = Config(preprocess=PreprocessConfig(bias_correction=False, register_t2w=False))
"""Settings that prepare a phantom in a second."""


def write_case(folder, *, head, shape=(20, 24, 10), seed=0):
    """One case: a block of brain with one lesion of each finding, a mimic and a nucleus."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    brain = np.zeros(shape, np.uint8)
    brain[2:-2, 2:-2, 1:-1] = 1
    labels = np.zeros(shape, np.uint8)
    labels[5:7, 5:7, 4:6], labels[12:15, 8:10, 5], labels[8, 18, 3] = 1, 2, 3
    mimics = np.zeros(shape, np.uint8)
    mimics[14, 18, 6] = 1
    regions = np.where(brain, 209, 0).astype(np.uint8)
    regions[11:16, 7:12, 4:7] = 222
    channels = (rng.normal(size=(3, *shape)) * brain).astype(np.float16)
    for name, array in locals().copy().items():
        if isinstance(array, np.ndarray):
            np.save(folder / f"{name}.npy", array)
    text = {"anatomy": f"anatomy_{head:02d}.nii.gz", "spacing_mm": [0.9, 0.9, 1.5], "seed": seed}
    (folder / "case.json").write_text(json.dumps(text))


@pytest.fixture
def cases(tmp_path):
    """Heads 1 and 2 train, 13 validates, 15 is nobody's."""
    folder = tmp_path / "cases"
    for number, head in enumerate((1, 2, 13, 15)):
        write_case(folder / f"case-{number:05d}", head=head, seed=number)
    return folder


@pytest.fixture(scope="session")
def phantom(tmp_path_factory):
    """One opened case, for property tests."""
    folder = tmp_path_factory.mktemp("cases") / "case-00000"
    write_case(folder, head=1)
    return open_case(folder)


def head_arrays():
    """Labels, regions and brain (I, J, K): two halves, a pallidum on the right, skin, air."""
    labels = np.zeros((36, 40, 32), np.uint16)
    labels[4:-4, 4:-4, 4:-4] = 511
    labels[8:18, 8:-8, 8:-8], labels[18:-8, 8:-8, 8:-8] = 2, 41
    labels[22:26, 16:20, 12:18] = 52
    regions = np.zeros(labels.shape, np.uint8)
    regions[labels == 2], regions[labels == 41], regions[labels == 52] = 109, 209, 223
    return labels, regions, np.isin(labels, (2, 41, 52))


@pytest.fixture(scope="session")
def head():
    """Fold the head of `head_arrays`."""
    labels, regions, brain = head_arrays()
    return fold_head("head_01", labels, regions=regions, brain=brain)


@pytest.fixture
def anatomies(tmp_path):
    """Folder with head 1, which trains, and head 13, which validates."""
    folder = tmp_path / "anatomies"
    folder.mkdir()
    labels, regions, brain = head_arrays()
    for number in (1, 13):
        np.savez(
            folder / f"head_{number:02d}.npz",
            labels=labels,
            regions=regions,
            brain=brain,
            affine=np.eye(4),
        )
    return folder


# ---- a study -------------------------------------------------------------------------------


def write_image(path, data, affine):
    """Write a NIfTI file with both affines."""
    image = Nifti1Image(data, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.to_filename(path)


def write_study_person(data, label, person):
    """Write scans and labels of one phantom as sub-`label`."""
    affine = person.scans.swi.affine
    anat = data / f"sub-{label}" / "anat"
    for kind in ("swi", "Chimap", "T2w"):
        volume = getattr(person.scans, {"swi": "swi", "Chimap": "chimap", "T2w": "t2w"}[kind])
        write_image(anat / f"sub-{label}_{kind}.nii.gz", volume.data, affine)
    write_image(labels_path(data, label), person.findings, affine)


def labels_path(data, label):
    """Where a person's label map lies."""
    name = f"sub-{label}_desc-findings_dseg.nii.gz"
    return data / "derivatives" / "truth" / f"sub-{label}" / "anat" / name


@pytest.fixture(scope="session")
def whole_study(tmp_path_factory, phantom_person):
    """Six phantoms with a CMB, an iron deposit and a calcification; 06 has none. Not to change."""
    data = tmp_path_factory.mktemp("study") / "data"
    for number in range(1, 7):
        radius_mm = 0.0 if number == 6 else 2.0 + 0.3 * number
        write_study_person(
            data, f"{number:02d}", phantom_person(seed=number, radius_mm=radius_mm)
        )
    return data


@pytest.fixture
def study(whole_study, tmp_path):
    """Copy of the study, to spoil."""
    return Path(shutil.copytree(whole_study, tmp_path / "data"))


@pytest.fixture(scope="session")
def prepared_study(whole_study, tiny_weights, tmp_path_factory):
    """Return the prepared cases of the study, by name; never to be changed."""
    cases, _ = prepare_data(
        DataChoice(data=whole_study),
        tmp_path_factory.mktemp("prepared"),
        weights=load_weights(tiny_weights),
        config=FAST,
        progress=lambda _: None,
    )
    return cases


PAPER_TEXT = """
name = "tiny-paper"
part = "slices"
[network]
in_channels = 2
out_channels = 3
filters = [2, 3]
strides = [[1, 1, 1], [2, 2, 1]]
kernels = [[3, 3, 1], [3, 3, 1]]
norm = "batch"
dimensions = 2
activation = "relu"
down = "maxpool"
[optimisation]
epochs = 1
batch_size = 8
learning_rate = 0.01
decay = "constant"
warmup_steps = 0
weight_decay = 0.0
ema_decay = 0.0
[schedule]
best_by = "loss"
[slices]
inputs = ["swi", "Chimap"]
size = 48
slices_per_epoch = 24
"""
"""A recipe of the slices part so small that an epoch takes a second."""


@pytest.fixture(scope="session")
def paper_text():
    """Return a tiny recipe of the slices part, as TOML."""
    return PAPER_TEXT


@pytest.fixture(scope="session")
def fast_config():
    """Return settings that prepare a phantom in a second."""
    return FAST
