"""A folder of tiny cases and tiny anatomies."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deepmir.simulation.anatomy import save_anatomy
from deepmir.training.anatomy_samples import fold_head
from deepmir.training.patches import open_case


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
def write_tiny_case():
    """Return the function that writes one case: `write_tiny_case(folder, head=1, seed=0)`."""
    return write_case


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


@pytest.fixture(scope="session")
def tiny_anatomies(tmp_path_factory):
    """Heads 1 (trains) and 13 (validates), half the size of the made-up head."""
    path = Path(__file__).parents[1] / "simulation" / "phantom_head.py"
    spec = importlib.util.spec_from_file_location("phantom_head", path)
    phantom_head = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(phantom_head)
    whole, every_other = phantom_head.phantom_anatomy(), (slice(None, None, 2),) * 3
    folder = tmp_path_factory.mktemp("anatomies")
    for number in (1, 13):
        small = replace(
            whole,
            labels=whole.labels[every_other],
            regions=whole.regions[every_other],
            brain=whole.brain[every_other],
            name=f"head_{number:02d}",
        )
        save_anatomy(small, folder / f"head_{number:02d}.npz")
    return folder
