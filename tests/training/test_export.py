"""The released folder: both forms hold the same numbers, and lead back to training."""

from dataclasses import replace
from types import MappingProxyType

import numpy as np
import onnx
import openvino
import pytest
import torch
from onnx import TensorProto
from safetensors.torch import load_file

from deepmir.errors import TrainingError, WeightsError
from deepmir.labels import Finding
from deepmir.model.unet import (
    anatomy_spec,
    build_anatomy_network,
    build_findings_network,
    build_network,
    findings_spec,
)
from deepmir.model.weights import load_weights
from deepmir.training.export import (
    ReleaseNotes,
    export_release,
    half_rounded,
    initial_state,
    load_trainable,
)
from deepmir.training.export_tuned import export_tuned
from deepmir.training.fit import CHECKPOINT_NAME, TrainingState, save_checkpoint
from deepmir.training.recipes import OptimisationConfig, Recipe

PARTS = ("anatomy", "nuclei", "findings")
BUILD = {
    "anatomy": build_anatomy_network,
    "nuclei": build_network,
    "findings": build_findings_network,
}
SPECS = {
    "anatomy": anatomy_spec((2, 3, 4)),
    "nuclei": replace(anatomy_spec((2, 3, 4)), in_channels=10, out_channels=5),
    "findings": findings_spec((2, 3, 4)),
}
OPTIMISATION = OptimisationConfig(steps=9, batch_size=1, learning_rate=0.1)


def recipe_of(part):
    return Recipe(name=f"tiny-{part}", part=part, network=SPECS[part], optimisation=OPTIMISATION)


def write_checkpoint(folder, part, seed=5, scores=MappingProxyType({"mean": 0.75})):
    """Checkpoint of a network with random weights, statistics included."""
    torch.manual_seed(seed)
    network = BUILD[part](SPECS[part])
    state = {
        name: torch.rand_like(value) + 0.3
        if value.is_floating_point() and value.ndim == 1
        else value
        for name, value in network.state_dict().items()
    }
    network.load_state_dict(state)
    folder.mkdir()
    optimizer = torch.optim.AdamW(network.parameters())
    made = TrainingState(
        network, network.state_dict(), optimizer, network, step=7, scores=dict(scores)
    )
    save_checkpoint(folder / CHECKPOINT_NAME, made, recipe_of(part))
    return folder / CHECKPOINT_NAME


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {part: write_checkpoint(folder / part, part) for part in PARTS}


@pytest.fixture(scope="module")
def released(checkpoints, tmp_path_factory):
    out = tmp_path_factory.mktemp("released")
    notes = ReleaseNotes(
        thresholds={Finding.CMB: 0.4, Finding.IRON: 0.6, Finding.CALCIFICATION: 0.5},
        validation={"CMB sensitivity": 0.875},
    )
    export_release(checkpoints, out, notes)
    return out


@pytest.mark.parametrize("shape", [(16, 8, 24), (8, 16, 8)])
@pytest.mark.parametrize("part", PARTS)
def test_both_forms_give_equal_numbers_on_any_grid(released, part, shape):
    network = load_trainable(released, part).eval()
    image = np.random.default_rng(1).normal(size=(2, network.spec.in_channels, *shape))
    image = image.astype(np.float32)
    with torch.inference_mode():
        by_torch = network(torch.from_numpy(image)).numpy()
    model = openvino.Core().compile_model(
        released / f"{part}.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    np.testing.assert_allclose(model(image)[0], by_torch, atol=1e-3)


@pytest.mark.parametrize("part", PARTS)
def test_onnx_stores_half_precision(released, part):
    stored = onnx.load(released / f"{part}.onnx").graph.initializer
    floats = [t for t in stored if t.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16)]
    assert floats
    assert all(t.data_type == TensorProto.FLOAT16 for t in floats)


def test_the_trainable_form_is_half_precision_with_prefixes(released):
    tensors = load_file(released / "weights.safetensors")
    assert {name.split(".")[0] for name in tensors} == set(PARTS)
    assert not any(value.dtype == torch.float32 for value in tensors.values())


def test_the_manifest_and_the_card_say_what_was_done(released):
    weights = load_weights(released)
    assert weights.thresholds[Finding.IRON] == 0.6
    assert "CMB sensitivity 0.875" in weights.manifest.card.evaluation
    card = (released / "MODEL_CARD.md").read_text(encoding="utf-8")
    for words in ("tiny-anatomy", "7 steps", "| mean | 0.750 |", "CMB 0.4", "13, 14", "research"):
        assert words in card


def test_a_part_that_never_validated_says_so(released, tmp_path):
    run = write_checkpoint(tmp_path / "run", "findings", scores={})
    out = tmp_path / "out"
    export_release({"findings": run}, out, ReleaseNotes(), base=released, share=0.5)
    card = (out / "MODEL_CARD.md").read_text(encoding="utf-8")
    own = card.partition("## findings part")[2].partition("## ")[0]
    assert "- This part has no validation scores of its own\n" in own
    assert "; none validated" in own
    assert "whose own validation follows" not in own
    assert load_weights(out).manifest.card.evaluation == "none"


def test_tuned_weights_say_whose_calibration_they_have(checkpoints, released, tmp_path):
    made = export_tuned(
        checkpoints["findings"], released, tmp_path / "tuned",
        thresholds=dict.fromkeys(Finding, 0.5), persons=(4, 1),
    )  # fmt: skip
    told = "calibrated as those of deepmir-released: that was not fitted again on the study."
    assert told in (made.folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert told in made.manifest.card.limits
    assert made.manifest.calibration == load_weights(released).manifest.calibration
    assert (made.folder / "nuclei.onnx").read_bytes() == (released / "nuclei.onnx").read_bytes()


def test_a_release_without_nuclei_is_whole(checkpoints, tmp_path):
    two = {part: checkpoints[part] for part in ("anatomy", "findings")}
    weights = export_release(two, tmp_path / "two", ReleaseNotes())
    assert not weights.has("nuclei")
    again = export_release({}, tmp_path / "again", ReleaseNotes(), base=weights.folder)
    assert not again.has("nuclei")


def test_released_weights_start_a_run_of_the_same_network(released):
    state = initial_state(released, recipe_of("findings"))
    assert all(v.dtype == torch.float32 for v in state.values() if v.is_floating_point())
    other = replace(recipe_of("findings"), network=findings_spec((2, 2, 2)))
    with pytest.raises(WeightsError, match=r"\(2, 3, 4\)"):
        initial_state(released, other)


def test_a_checkpoint_of_the_other_part_is_refused(checkpoints, tmp_path):
    with pytest.raises(TrainingError, match="of the findings part, wanted anatomy"):
        export_release({"anatomy": checkpoints["findings"]}, tmp_path, ReleaseNotes())


def test_half_a_release_is_refused(checkpoints, tmp_path):
    with pytest.raises(WeightsError, match=r"no findings\.onnx"):
        export_release({"anatomy": checkpoints["anatomy"]}, tmp_path, ReleaseNotes())


def test_a_part_that_was_not_trained_comes_from_the_base(checkpoints, released, tmp_path):
    out = tmp_path / "next"
    export_release({"anatomy": checkpoints["anatomy"]}, out, ReleaseNotes(), base=released)
    before, after = (load_file(folder / "weights.safetensors") for folder in (released, out))
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert (out / "findings.onnx").read_bytes() == (released / "findings.onnx").read_bytes()
    card = (out / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert card.count("## anatomy part") == card.count("## findings part") == 1
    assert card.count("tiny-findings") == 1
    assert "CMB sensitivity" not in card  # measured with the weights before


def test_a_part_may_go_half_of_the_way_from_the_weights_before(released, tmp_path):
    other = write_checkpoint(tmp_path / "other", "findings", seed=6)
    folders = [tmp_path / name for name in ("all", "half")]
    for out, share in zip(folders, (1.0, 0.5), strict=True):
        export_release({"findings": other}, out, ReleaseNotes(), base=released, share=share)
    before, end, half = (load_file(f / "weights.safetensors") for f in (released, *folders))
    name = next(key for key in end if key.startswith("findings") and end[key].ndim == 5)
    mean = (before[name].float() + end[name].float()) / 2
    assert not torch.equal(before[name], end[name])
    assert torch.allclose(half[name].float(), mean, rtol=1e-3)
    assert "weights before (50%)" in (folders[1] / "MODEL_CARD.md").read_text(encoding="utf-8")
    with pytest.raises(TrainingError, match="give the base"):
        export_release({"findings": other}, tmp_path / "none", ReleaseNotes(), share=0.5)


def test_rounding_is_to_what_half_precision_holds():
    rounded = half_rounded({"w": torch.tensor([0.1, 1e6]), "n": torch.tensor(3)})
    assert rounded["w"].tolist() == [float(np.float16(0.1)), 65504.0]
    assert rounded["n"].dtype == torch.int64
