"""Fine-tuning the released network on a few persons of a simulated site that is unlike its data.

    python benchmarks/few_shot.py --anatomies cache/anatomies --out work/few_shot

The site: protocol `mesa-like`, its SWI with half the contrast, its susceptibility blurred and at
60 %, as an overly smooth inversion gives it. A few persons train, one validates, the others are
predicted by the released network and by the tuned one; those that validate or are predicted have
heads that the released network never trained on. Prints sensitivity, precision and F1 of each
finding before and after, and writes them as JSON. The same command goes on where it stopped.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from scipy import ndimage

from deepmir.config import Config
from deepmir.evaluation.detection import Score, pool
from deepmir.labels import Finding
from deepmir.model.weights import RELEASED, load_weights
from deepmir.simulation.anatomy import load_anatomy
from deepmir.simulation.cohort import TRUTH_FOLDER, person_label, write_person
from deepmir.simulation.person import SimulatedPerson, simulate_person
from deepmir.study.cohort import PROTOCOL, mesa_counts
from deepmir.training.dataset import read_reference_labels
from deepmir.training.experiment import (
    DataChoice,
    Experiment,
    predict_person,
    prepare_data,
    read_network,
    train_fold,
    validated_thresholds,
)
from deepmir.training.export import load_trainable
from deepmir.training.fit import RunOptions, choose_device
from deepmir.training.folds import Fold
from deepmir.training.lesion_scores import score_labels
from deepmir.training.recipes import read_recipe
from release_data import TEST_HEADS, TRAIN_HEADS, VALIDATION_HEADS

SEED = 4242
SWI_POWER, CHI_SHARE, CHI_BLUR_VOXELS = 0.5, 0.6, 0.7


def main() -> None:
    """Simulate the site, predict, tune, predict again, print."""
    given = read_options()
    tested = islice(cycle(TEST_HEADS), given.test)
    heads = (*TRAIN_HEADS[: given.few], VALIDATION_HEADS[0], *tested)
    simulate_site(given.out / "site", given.anatomies, heads)
    cases, labelled = prepare_data(
        DataChoice(data=given.out / "site", group_by="person"),
        given.out / "cases",
        weights=load_weights(),
        config=Config(),
        progress=print,
    )
    names = tuple(cases)
    fold = Fold(names[: given.few], names[given.few : given.few + 1], names[given.few + 1 :])
    recipe = read_recipe("fine-tune")
    experiment = Experiment(recipe=recipe, cases=cases, labelled=labelled, init=RELEASED)
    device = choose_device(given.device)
    options = RunOptions(steps=given.steps, device=given.device)
    run = train_fold(experiment, fold, given.out / "run", options=options, progress=print)
    tuned = read_network(run.checkpoint, device=device)
    networks = {
        "released": (load_trainable(RELEASED, "findings").eval(), load_weights().thresholds),
        "tuned": (tuned, validated_thresholds(experiment, fold, tuned, device=device)),
    }
    result = {}
    for name, (network, thresholds) in networks.items():
        scores = []
        for person in fold.test:
            case = experiment.cases[person]
            labels = predict_person(experiment, case, network, thresholds=thresholds, device=device)
            reference = read_reference_labels(case.person).data.astype(np.int32)
            scores.append(score_labels(labels, reference))
        result[name] = figures(pool(scores))
        print(name, json.dumps(result[name]))
    text = json.dumps({"persons": len(fold.test), "few": given.few, **result}, indent=1)
    (given.out / "few_shot.json").write_text(text + "\n", encoding="utf-8")


def simulate_site(out: Path, anatomies: Path, heads: Sequence[int]) -> None:
    """Write the persons that are not there yet, one of each head."""
    for n, head in enumerate(heads):
        label = person_label(SEED, n)
        if (out / TRUTH_FOLDER / f"sub-{label}").exists():
            continue
        anatomy = load_anatomy(anatomies / f"head_{head:02d}.npz")
        person = simulate_person(
            anatomy, seed=SEED + n, protocol=PROTOCOL, counts=mesa_counts, whole_head=True
        )
        write_person(shifted(person), out, subject=label)
        print(f"simulated sub-{label}", flush=True)


def shifted(person: SimulatedPerson) -> SimulatedPerson:
    """Return the person as this site's reconstruction shows it; the truth stays."""
    top = float(np.percentile(person.swi, 99))
    swi = top * (np.maximum(person.swi, 0) / top) ** SWI_POWER
    chi = CHI_SHARE * ndimage.gaussian_filter(person.chi_ppm, CHI_BLUR_VOXELS)
    chi[person.chi_ppm == 0] = 0
    return replace(person, swi=swi.astype(np.float32), chi_ppm=chi.astype(np.float32))


def figures(score: Score) -> dict[str, list[float | None]]:
    """Sensitivity, precision and F1 of each finding."""
    return {
        finding.name: [
            score.of(finding).sensitivity,
            score.of(finding).precision,
            score.of(finding).f1,
        ]
        for finding in Finding
    }


def read_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--anatomies", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--few", type=int, default=4, help="persons that train")
    parser.add_argument("--test", type=int, default=6, help="persons that are predicted")
    parser.add_argument("--steps", type=int, help="in place of the recipe's")
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto")
    return parser.parse_args()


if __name__ == "__main__":
    main()
