"""Recipe `release`: both parts, one after the other, and a weights folder that can be used."""

import pytest

from deepmir.model.weights import load_weights
from deepmir.training.fit import RunOptions
from deepmir.training.recipes import parse_recipe
from deepmir.training.release import train_release

ANATOMY = """
name = "tiny-anatomy"
part = "anatomy"
[network]
in_channels = 6
out_channels = 19
filters = [2, 2]
strides = [[1, 1, 1], [2, 2, 2]]
kernels = [[3, 3, 3], [3, 3, 3]]
norm = "instance"
[optimisation]
steps = 2
batch_size = 1
learning_rate = 0.01
warmup_steps = 0
[schedule]
prefetch = 1
"""
FRESH = """
[fresh]
cases = 1
first_cases = 1
validation_cases = 1
"""


@pytest.mark.slow
def test_both_parts_train_in_turn_and_end_as_weights(tiny_anatomies, patch_text, tmp_path):
    findings = patch_text.replace("shape = [16, 16, 4]", "shape = [8, 8, 4]") + FRESH
    recipes = [parse_recipe(text, origin="test") for text in (ANATOMY, findings)]
    out, said = tmp_path / "mine", []
    stopped = train_release(*recipes, tiny_anatomies, out, options=RunOptions(minutes=0))
    assert (stopped.finished, stopped.checkpoint) == (False, out / "anatomy" / "last.pt")
    assert not (out / "weights").exists()
    options = RunOptions(workers=1)
    ended = train_release(*recipes, tiny_anatomies, out, options=options, progress=said.append)
    assert (ended.finished, ended.checkpoint) == (True, out / "findings" / "last.pt")
    assert said[-1].startswith("weights, thresholds 0.5")
    weights = load_weights(out / "weights")
    assert weights.manifest.name == "mine"
    assert "simulated scans of heads 1, 2" in weights.manifest.card.training_data
