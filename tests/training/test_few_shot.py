"""Few-shot: a network of one site goes on with a few persons of another, and gets better there.

Site A shows deposits dark and of strong susceptibility. At site B the reconstruction is another:
SWI falls less, susceptibility is a third, and there are dark veins without any susceptibility.
"""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deepmir.errors import WeightsError
from deepmir.labels import Finding
from deepmir.model.predict_torch import TorchNetwork
from deepmir.model.unet import anatomy_spec, build_anatomy_network
from deepmir.model.weights import RELEASED, load_weights
from deepmir.segmentation import FindingsGrid
from deepmir.training.dataset import LabelledPerson, PersonSummary
from deepmir.training.experiment import Experiment, predict_person, read_network, train_fold
from deepmir.training.export import ReleaseNotes, export_release, load_trainable
from deepmir.training.fit import CHECKPOINT_NAME, RunOptions, TrainingState, save_checkpoint
from deepmir.training.folds import Fold
from deepmir.training.fresh import Simulators
from deepmir.training.labelled_task import LabelledTask, merge_unlabelled
from deepmir.training.lesion_scores import f1_scores, score_labels
from deepmir.training.predict import predict_patches
from deepmir.training.prepare import PreparedCase
from deepmir.training.recipes import OptimisationConfig, Recipe, parse_recipe, read_recipe
from deepmir.training.run import export_result, init_folder
from deepmir.training.sources import Mix, Opener

SHAPE = (48, 40, 12)
N_LESIONS = 8
CPU = torch.device("cpu")
TEXT = """
name = "tiny-site"
part = "findings"
[network]
in_channels = 8
out_channels = 4
filters = [8, 12]
strides = [[1, 1, 1], [2, 2, 1]]
kernels = [[3, 3, 3], [3, 3, 3]]
norm = "batch"
[optimisation]
steps = 120
batch_size = 4
learning_rate = 1e-2
warmup_steps = 10
ema_decay = 0.9
[schedule]
validate_every = 120
[findings]
shape = [16, 16, 8]
subsets = [["swi+Chimap", 1.0]]
shift_share = 0.0
"""


def site_case(folder, number, *, shifted):
    """Write one person of site A or, shifted, B as a prepared case."""
    rng = np.random.default_rng([number, int(shifted)])
    labels = np.zeros(SHAPE, np.uint8)
    channels = 0.15 * rng.standard_normal((3, *SHAPE)).astype(np.float32)
    places = [(i, j, k) for i in range(6, 44, 9) for j in range(6, 36, 9) for k in (3, 8)]
    for n, at in enumerate(rng.permutation(len(places))):
        i, j, k = places[at]
        block = (slice(i - 1, i + 2), slice(j - 1, j + 2), slice(k - 1, k + 2))
        if n < N_LESIONS:
            labels[block] = Finding.CMB
            channels[1][block] -= 0.5 if shifted else 1.4
            channels[2][block] += 0.5 if shifted else 1.5
        elif n < 2 * N_LESIONS:  # veins: dark, and of susceptibility at site A only
            channels[1][i - 3 : i + 4, j, k] -= 1.4 if shifted else 0.5
            channels[2][i - 3 : i + 4, j, k] += 0.0 if shifted else 0.4
    arrays = {
        "channels": channels.astype(np.float16),
        "labels": labels,
        "mimics": ((channels[1] < -0.8) & (labels == 0)).astype(np.uint8),
        "brain": np.ones(SHAPE, np.uint8),
        "regions": np.full(SHAPE, 209, np.uint8),
    }
    folder.mkdir(parents=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    described = {"contrasts": ["swi", "Chimap"], "spacing_mm": [0.8, 0.8, 1.5]}
    (folder / "case.json").write_text(json.dumps(described))
    name, absent = folder.name, Path("absent.nii.gz")
    grid = FindingsGrid((0, 1, 2), (0.8, 0.8, 1.5), (0.8, 0.8, 1.5))
    return PreparedCase(
        LabelledPerson(name=name, group=name, labels=absent, swi=absent, chimap=absent),
        folder,
        PersonSummary(name, name, ("swi", "Chimap"), (N_LESIONS, 0, 0)),
        grid,
        tuple((0, n) for n in SHAPE),
        SHAPE,
    )


def site(folder, *, shifted, persons):
    cases = [site_case(folder / f"sub-{n:02d}", n, shifted=shifted) for n in range(persons)]
    return {case.person.name: case for case in cases}


def experiment_of(cases, **changes):
    recipe = parse_recipe(TEXT, origin="test")
    optimisation = replace(recipe.optimisation, **changes)
    return Experiment(
        recipe=replace(recipe, optimisation=optimisation), cases=cases, labelled=(Finding.CMB,)
    )


def train(experiment, fold, out):
    result = train_fold(experiment, fold, out, options=RunOptions(), progress=lambda _: None)
    return read_network(result.checkpoint, device=CPU)


def f1_of(experiment, network, names, threshold):
    thresholds = dict.fromkeys(Finding, threshold)
    scores = [
        score_labels(
            predict_person(
                experiment, experiment.cases[name], network, thresholds=thresholds, device=CPU
            ),
            np.load(experiment.cases[name].folder / "labels.npy"),
        )
        for name in names
    ]
    return f1_scores(scores, (Finding.CMB,))["CMB F1"]


def release(findings_checkpoint, folder):
    """Weights folder of a trained findings part and an anatomy part that knows nothing."""
    spec = anatomy_spec((2, 2, 2))
    network = build_anatomy_network(spec)
    recipe = Recipe(
        name="tiny-anatomy",
        part="anatomy",
        network=spec,
        optimisation=OptimisationConfig(steps=1, batch_size=1, learning_rate=0.1),
    )
    optimizer = torch.optim.AdamW(network.parameters())
    (folder / "run").mkdir(parents=True)
    path = folder / "run" / CHECKPOINT_NAME
    save_checkpoint(path, TrainingState(network, network.state_dict(), optimizer, network), recipe)
    export_release(
        {"anatomy": path, "findings": findings_checkpoint}, folder / "weights", ReleaseNotes()
    )
    return folder / "weights"


@pytest.mark.slow
def test_a_few_persons_of_a_shifted_site_make_the_network_better_there(tmp_path):
    here = experiment_of(site(tmp_path / "a", shifted=False, persons=4))
    names = tuple(here.cases)
    first = train(here, Fold(names[:3], names[3:], ()), tmp_path / "first")
    assert f1_of(here, first, names[3:], 0.5) > 0.9
    weights = release(tmp_path / "first" / CHECKPOINT_NAME, tmp_path / "released")

    there = experiment_of(
        site(tmp_path / "b", shifted=True, persons=5), steps=70, learning_rate=3e-3
    )
    there = replace(there, init=weights)
    names = tuple(there.cases)
    few, tested = Fold(names[:2], names[2:3], names[3:]), names[3:]
    before = f1_of(there, load_trainable(weights, "findings").eval(), tested, 0.5)
    tuned = train(there, few, tmp_path / "tuned")
    after = f1_of(there, tuned, tested, 0.5)
    assert after > before + 0.2
    assert after > 0.8

    written = export_result(there, few, tmp_path / "tuned", base=weights, options=RunOptions())
    assert load_weights(written.folder).manifest.name == "deepmir-released-tuned"
    assert "2 persons of a study, validated on 1" in (written.folder / "MODEL_CARD.md").read_text()
    again = load_trainable(written.folder, "findings").eval()
    case = there.cases[tested[0]]
    one, other = (
        predict_patches(TorchNetwork(network, CPU), case.folder, present=(False, True, True))
        for network in (tuned, again)
    )
    np.testing.assert_allclose(one, other, atol=0.02)  # half precision


def test_the_fine_tune_recipe_fits_the_released_network():
    recipe = read_recipe("fine-tune")
    spec = asdict(recipe.network)
    assert asdict(load_trainable(RELEASED, "findings").spec) == spec
    assert init_folder("released") == RELEASED
    assert (init_folder(None), init_folder("x")) == (None, Path("x"))


def test_weights_of_another_network_are_refused(tmp_path):
    cases = site(tmp_path / "a", shifted=False, persons=2)
    names = tuple(cases)
    plan = replace(experiment_of(cases), init=RELEASED)
    with pytest.raises(WeightsError, match=r"recipe tiny-site wants \(8, 12\)"):
        train(plan, Fold(names[:1], names[1:], ()), tmp_path / "run")


# ---- the task ------------------------------------------------------------------------------


def test_findings_that_nobody_labelled_are_not_punished():
    logits = torch.zeros((1, 4, 2, 2, 2))
    logits[:, 3] = 9  # sure of a calcification
    merged = merge_unlabelled(logits, (Finding.CMB, Finding.IRON))
    assert merged.softmax(1)[0, 0].min() > 0.99
    assert merged.softmax(1)[0, 3].max() < 1e-6
    probabilities = logits.softmax(1)
    for finding in (1, 2):
        assert torch.allclose(merged.softmax(1)[:, finding], probabilities[:, finding])
    assert merge_unlabelled(logits, tuple(Finding)) is logits


def test_simulated_cases_are_mixed_in_by_their_share(cases, tmp_path):
    study = site(tmp_path / "b", shifted=True, persons=2)
    recipe = parse_recipe(TEXT, origin="test")
    folders = [case.folder for case in study.values()]
    for share, wanted in ((0.0, 0), (1.0, 1)):
        mixed = Opener(recipe, tmp_path, Simulators()).mixed((Mix(cases, share),))
        task = LabelledTask(recipe, folders, folders, mixed=mixed)
        # only the simulated cases have basal ganglia
        places = [float(task.batch(step).inputs[:, 7].max()) for step in range(6)]
        assert (max(places) > 0.5) == bool(wanted)
        task.close()


def test_a_step_gives_its_batch_whenever_it_is_asked_for(tmp_path):
    study = site(tmp_path / "b", shifted=True, persons=2)
    folders = [case.folder for case in study.values()]
    recipe = parse_recipe(TEXT, origin="test")
    one, other = (LabelledTask(recipe, folders, folders) for _ in "ab")
    first = [one.batch(step) for step in range(3)]
    assert torch.equal(other.batch(2).inputs, first[2].inputs)
    assert first[0].inputs[:, 0].abs().max() == 0  # T2w is not there
    one.close()
    other.close()
