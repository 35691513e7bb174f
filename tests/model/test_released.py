"""The released network: complete, undamaged, and one set of numbers in two forms."""

import numpy as np
import pytest

from deepmir.config import SegmentConfig
from deepmir.labels import Finding
from deepmir.model.predict import OpenVinoNetwork
from deepmir.model.weights import load_weights

SHAPES = {"anatomy": (1, 6, 32, 64, 32), "findings": (1, 8, 16, 24, 8)}


def test_it_is_inside_the_package_and_below_16_mb():
    weights = load_weights()
    assert sum(file.stat().st_size for file in weights.folder.iterdir()) < 16 * 2**20
    assert set(weights.thresholds) == set(Finding)
    assert (weights.folder / "MODEL_CARD.md").read_text(encoding="utf-8").startswith("# ")
    assert not list(weights.folder.glob("*.p*"))  # no pickle


@pytest.mark.parametrize("part", ["anatomy", "findings"])
def test_the_trainable_form_gives_what_the_running_form_gives(part):
    torch = pytest.importorskip("torch")
    pytest.importorskip("monai")
    from deepmir.model.predict_torch import load_network  # noqa: PLC0415 - needs the train extra

    weights = load_weights()
    image = np.random.default_rng(1).normal(size=SHAPES[part]).astype(np.float32)
    running = OpenVinoNetwork(weights.onnx_path(part), threads=SegmentConfig().threads)(image)
    with torch.no_grad():
        trainable = load_network(weights, part).eval()(torch.from_numpy(image)).numpy()
    assert running.shape == trainable.shape
    assert np.abs(running - trainable).max() < 2e-3 * np.abs(trainable).max()
