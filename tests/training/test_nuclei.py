"""The nuclei part: boxes of cases, samples, training that goes on, and export."""

import shutil

import numpy as np
import pytest
import torch

from deepmir.config import SegmentConfig
from deepmir.errors import ConfigError, InputError, WeightsError
from deepmir.model.anatomy_input import NO_REGION_CLASS
from deepmir.model.predict import open_network
from deepmir.model.unet import UNetSpec
from deepmir.model.weights import MAX_BYTES, RELEASED, load_weights
from deepmir.preprocessing.nuclei import ANATOMY_CLASSES, BASES, N_CHANNELS, N_CLASSES
from deepmir.training.export import ReleaseNotes, export_release, load_trainable
from deepmir.training.fit import RunOptions, read_checkpoint
from deepmir.training.nuclei_cases import (
    NucleiSampling,
    load_case,
    make_sample,
    prepare_case,
    whole_box,
)
from deepmir.training.nuclei_task import boxes_folder, score_nuclei
from deepmir.training.recipes import OptimisationConfig, Recipe, ScheduleConfig
from deepmir.training.run import Mix, train

PUTAMEN = 1 + BASES.index(22)
SAMPLING = NucleiSampling(patch=(16, 16, 16))
RECIPE = Recipe(
    name="tiny-nuclei",
    part="nuclei",
    network=UNetSpec(
        in_channels=N_CHANNELS,
        out_channels=N_CLASSES,
        filters=(2, 2),
        strides=((1, 1, 1), (2, 2, 2)),
        kernels=((3, 3, 3), (3, 3, 3)),
        norm="instance",
        supervised_levels=1,
    ),
    optimisation=OptimisationConfig(steps=4, batch_size=2, learning_rate=0.01, warmup_steps=1),
    schedule=ScheduleConfig(log_every=2, validate_every=2),
    nuclei=SAMPLING,
)


def anatomy(batch):
    """Stand for the anatomy part: a putamen in the middle of the head."""
    logits = np.zeros((1, NO_REGION_CLASS + 2, *batch.shape[2:]), np.float32)
    logits[0, ANATOMY_CLASSES[BASES.index(22)], 4:7, 3:5, 2:5] = 9
    return logits


@pytest.fixture
def boxes(cases, tmp_path):
    """Prepare the boxes of all cases, as a run would with its own anatomy part."""
    folder = boxes_folder(tmp_path / "out", load_weights())
    for case in sorted(cases.iterdir()):
        prepare_case(case, folder / f"{case.name}.npz", anatomy, sampling=SAMPLING)
    return folder


def test_a_box_has_scans_truth_and_what_the_anatomy_part_says(boxes):
    case = load_case(boxes / "case-00000.npz")
    assert case.channels.shape == (3, *case.classes.shape)
    assert case.coarse.shape == (3, len(BASES), *case.classes.shape)
    assert case.present[:2].tolist() == [[True, True, True], [False, True, True]]
    assert set(np.unique(case.classes)) == {0, PUTAMEN}
    assert case.coarse[:, PUTAMEN - 1].max() > 200
    volume_mm3 = int((case.classes == PUTAMEN).sum())
    assert volume_mm3 == pytest.approx(5 * 5 * 3 * 0.9 * 0.9 * 1.5, rel=0.2)


def test_a_case_without_nuclei_is_named(cases, tmp_path):
    def blind(batch):
        return np.zeros((1, NO_REGION_CLASS + 2, *batch.shape[2:]), np.float32)

    with pytest.raises(InputError, match="case-00000"):
        prepare_case(cases / "case-00000", tmp_path / "box.npz", blind, sampling=SAMPLING)
    assert not (tmp_path / "box.npz").exists()


def test_samples_differ_and_repeat(boxes):
    case = load_case(boxes / "case-00000.npz")
    one, again, other = (
        make_sample(case, np.random.default_rng(seed), SAMPLING) for seed in (1, 1, 2)
    )
    assert torch.equal(one.inputs, again.inputs)
    assert not torch.equal(one.inputs, other.inputs)
    assert one.inputs.shape == (N_CHANNELS, 16, 16, 16)
    assert one.classes.shape == (16, 16, 16)


def test_without_bends_a_sample_is_the_box(boxes):
    case = load_case(boxes / "case-00000.npz")
    still = NucleiSampling(
        patch=case.classes.shape, rotation_deg=0, scale=0, elastic_mm=0, coarse_shift_mm=0, grey=0
    )
    samples = [make_sample(case, np.random.default_rng(seed), still) for seed in range(8)]
    boxed = [whole_box(case, variant) for variant in range(3)]
    for sample in samples:
        assert any(
            torch.allclose(sample.inputs, turned, atol=1e-3)
            for box in boxed
            for turned in (box.inputs, box.inputs.flip(1))
        )


def test_scores_are_those_of_the_outlines(boxes):
    sample = whole_box(load_case(boxes / "case-00000.npz"), 0)
    right = score_nuclei(sample.classes.long(), sample)
    assert right["putamen"] == right["nuclei"] == 1
    assert right["nuclei of the anatomy part"] < 1
    assert np.isnan(right["thalamus"])


def test_it_trains_stops_and_goes_on_to_the_same_weights(boxes, cases, tmp_path):
    whole = train(RECIPE, cases, tmp_path / "out")
    assert whole.finished
    assert 0 <= whole.scores["putamen"] <= 1
    parts = tmp_path / "parts"
    shutil.copytree(boxes, boxes_folder(parts, load_weights()))
    assert not train(RECIPE, cases, parts, options=RunOptions(minutes=0)).finished
    assert train(RECIPE, cases, parts).finished
    one, other = (read_checkpoint(folder / "last.pt") for folder in (tmp_path / "out", parts))
    assert all(torch.equal(one.ema[name], other.ema[name]) for name in one.ema)


@pytest.mark.usefixtures("boxes")
def test_it_is_released_beside_the_other_parts(cases, tmp_path):
    run = train(RECIPE, cases, tmp_path / "out")
    out = tmp_path / "weights"
    weights = export_release({"nuclei": run.checkpoint}, out, ReleaseNotes(), base=RELEASED)
    assert all(weights.has(part) for part in ("anatomy", "nuclei", "findings"))
    assert sum(file.size_bytes for file in weights.manifest.files.values()) <= MAX_BYTES
    batch = np.random.default_rng(0).normal(size=(1, N_CHANNELS, 8, 16, 8)).astype(np.float32)
    logits = open_network(weights, "nuclei", SegmentConfig(device="cpu", threads=1))(batch)
    with torch.no_grad():
        wanted = load_trainable(out, "nuclei")(torch.from_numpy(batch)).numpy()
    np.testing.assert_allclose(logits, wanted, atol=1e-3)
    assert "## nuclei part" in (out / "MODEL_CARD.md").read_text()


def test_boxes_of_another_anatomy_part_are_not_taken(boxes, tiny_weights, tmp_path):
    released, other = load_weights(), load_weights(tiny_weights)
    assert boxes_folder(tmp_path / "out", released) == boxes
    assert boxes_folder(tmp_path / "out", other) != boxes


def test_it_takes_cases_alone(cases, tmp_path):
    with pytest.raises(ConfigError, match="--mix"):
        train(RECIPE, cases, tmp_path / "out", mixes=[Mix(cases, 0.5)])
    with pytest.raises(InputError, match="heads 1, 2"):
        train(RECIPE, tmp_path / "none", tmp_path / "out")


def test_a_folder_without_the_part_cannot_be_its_beginning(cases, tiny_weights, tmp_path):
    with pytest.raises(WeightsError, match="no nuclei part"):
        train(RECIPE, cases, tmp_path / "out", init=tiny_weights)
