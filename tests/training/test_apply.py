"""A trained network of slices on new scans: as out-of-fold, or refused with a reason."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch

from deepmir.cli import main
from deepmir.errors import InputError, OutputError
from deepmir.model.unet import build_network
from deepmir.model.weights import load_weights
from deepmir.training.apply import check_contrasts_of, find_trained, predict_scans
from deepmir.training.dataset import list_scans
from deepmir.training.experiment import labels_by_slices, prediction_path, read_network
from deepmir.training.fit import (
    BEST_NAME,
    CHECKPOINT_NAME,
    TrainingState,
    read_checkpoint,
    save_checkpoint,
)
from deepmir.training.recipes import parse_recipe

CPU = torch.device("cpu")


def write_run(folder, text, *, steps=(8, 8), best=True):
    """Write the checkpoints of a run of 8 steps at `steps` (last, best), weights by chance."""
    recipe = parse_recipe(text.replace("epochs = 1", "steps = 8"), origin="test")
    torch.manual_seed(steps[0])
    network = build_network(recipe.network)
    torch.nn.init.normal_(network.head_bias, std=2.0)
    optimizer = torch.optim.AdamW(network.parameters())
    folder.mkdir(parents=True)
    state = TrainingState(network, network.state_dict(), optimizer, network)
    for name, step in zip((CHECKPOINT_NAME, BEST_NAME)[: 1 + best], steps, strict=False):
        state.step = step
        save_checkpoint(folder / name, state, recipe)
    return folder


@pytest.fixture
def finished(tmp_path, paper_text):
    return write_run(tmp_path / "run", paper_text, steps=(8, 4))


@pytest.fixture
def scans(study):
    """Two persons without label maps."""
    shutil.rmtree(study / "derivatives")
    for person in study.glob("sub-0[3456]"):
        shutil.rmtree(person)
    return study


def predict(run, scans, out, weights, config, *, overwrite=False):
    return predict_scans(
        find_trained(run), list_scans(scans), out,
        preparation=(load_weights(weights), config), overwrite=overwrite,
    )  # fmt: skip


def test_label_maps_are_those_of_the_out_of_fold_way(
    finished, scans, tiny_weights, fast_config, prepared_study, tmp_path
):
    assert predict(finished, scans, tmp_path / "out", tiny_weights, fast_config) == 2
    network = read_network(finished / BEST_NAME, device=CPU)
    for person in list_scans(scans):
        path = prediction_path(tmp_path / "out", person)
        image, scan = nib.load(path), nib.load(person.swi)
        assert image.shape == scan.shape
        np.testing.assert_allclose(image.affine, scan.affine, atol=1e-5)
        sampling = find_trained(finished).recipe.slices
        labels = labels_by_slices(prepared_study[person.name], network, sampling, device=CPU)
        found = np.asarray(nib.as_closest_canonical(image).dataobj)
        assert np.array_equal(found, labels)
        said = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())
        assert (said["Checkpoint"], said["Step"]) == (BEST_NAME, 4)
        assert str(person.swi) in said["Sources"]
    assert (tmp_path / "out" / "dataset_description.json").exists()


def test_a_second_call_goes_on_and_two_networks_are_not_mixed(
    finished, scans, tiny_weights, fast_config, paper_text, tmp_path
):
    out, rest = tmp_path / "out", (tiny_weights, fast_config)
    predict(finished, scans, out, *rest)
    gone, kept = (prediction_path(out, person) for person in list_scans(scans))
    gone.unlink()
    before = kept.stat().st_mtime_ns
    assert predict(finished, scans, out, *rest) == 1
    assert (gone.exists(), kept.stat().st_mtime_ns) == (True, before)
    other = write_run(tmp_path / "other", paper_text, steps=(3, 3))
    with pytest.raises(OutputError, match=r"from another network; give a fresh --out, or --over"):
        predict(other, scans, out, *rest)
    assert predict(other, scans, out, *rest, overwrite=True) == 2


def test_an_unfinished_run_is_applied_with_a_warning(tmp_path, paper_text):
    run = write_run(tmp_path / "run", paper_text, steps=(5, 4))
    assert find_trained(run).checkpoint.name == BEST_NAME
    assert "is not finished: step 5 of the 8" in find_trained(run).warning
    (run / BEST_NAME).unlink()
    assert find_trained(run).checkpoint.name == CHECKPOINT_NAME
    assert "step 5 of the 8" in find_trained(run / CHECKPOINT_NAME).warning


def test_a_finished_run_needs_no_warning(finished):
    for path in (finished, finished / BEST_NAME, finished / CHECKPOINT_NAME):
        assert find_trained(path).warning is None
    assert read_checkpoint(finished / BEST_NAME).step == 4


def test_who_lacks_a_contrast_is_named(finished, scans, tiny_weights, fast_config, tmp_path):
    for path in scans.glob("sub-02/anat/*Chimap*"):
        path.unlink()
    recipe = find_trained(finished).recipe
    with pytest.raises(InputError, match=r"takes swi, Chimap: sub-02 has no Chimap; leave them"):
        check_contrasts_of(recipe, list_scans(scans))
    with pytest.raises(InputError, match="sub-02 has no Chimap"):
        predict(finished, scans, tmp_path / "out", tiny_weights, fast_config)
    assert not (tmp_path / "out").exists()
    assert [person.name for person in list_scans(scans, exclude=["02"])] == ["sub-01"]


def test_a_person_without_swi_and_qsm_cannot_be_predicted(scans):
    for path in (*scans.glob("sub-02/anat/*Chimap*"), *scans.glob("sub-02/anat/*swi*")):
        path.unlink()
    with pytest.raises(InputError, match=r"cannot be predicted: sub-02 has neither swi nor Chimap"):
        list_scans(scans)


def test_other_parts_and_folders_are_refused(tmp_path, patch_text, paper_text):
    findings = write_run(tmp_path / "findings", patch_text.replace("steps = 4", "steps = 8"))
    with pytest.raises(InputError, match=r"findings part: `deepmir segment --weights`"):
        find_trained(findings)
    write_run(tmp_path / "cross" / "seed-1" / "fold-02", paper_text)
    with pytest.raises(InputError, match=r"choose one of its 1 folds, such as .*fold-02"):
        find_trained(tmp_path / "cross")
    with pytest.raises(InputError, match="holds no checkpoint"):
        find_trained(tmp_path / "nowhere")


def test_the_verb_says_what_it_wrote(scans, tiny_weights, paper_text, tmp_path, capsys):
    run = write_run(tmp_path / "run", paper_text, steps=(5, 4))
    (tmp_path / "fast.toml").write_text(
        "[preprocess]\nbias_correction = false\nregister_t2w = false\n"
    )
    words = [
        "predict", "--checkpoint", run, "--data", scans, "--out", tmp_path / "out", "--weights",
        tiny_weights, "--config", tmp_path / "fast.toml", "--exclude", "02", "--device", "cpu",
    ]  # fmt: skip
    assert main([str(word) for word in words]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        "sub-01 (1 of 1)",
        f"label maps of 1 persons: {tmp_path / 'out'}",
    ]
    assert said.err.startswith("warning: the run of ")
