"""What decides how the findings part learns: small networks, several seeds of every choice.

    python benchmarks/training_choices.py --cases cache/cases --out work/choices --seeds 1 2

Every arm differs from the first, which is the recipe `release-findings` on a smaller network and
smaller patches, in one choice. All see the same cases and are scored on the same fixed patches of
the validation heads, every third of them anywhere in the brain: lesion-wise F1 of each finding at
the best offset of its logits, so that an arm that is merely bolder wins nothing. A difference that
is smaller than what seeds differ by is none. The same command goes on where it stopped; with some
`--arms` or `--seeds` several processes share the work, and the table shows all that is done.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepmir.evaluation.detection import pool
from deepmir.labels import Finding
from deepmir.model.losses import IGNORE
from deepmir.training.experiment import read_network
from deepmir.training.findings_task import as_batch
from deepmir.training.fit import Batch, RunOptions, choose_device, result_checkpoint
from deepmir.training.lesion_scores import score_labels
from deepmir.training.patches import PatchSampling, draw_patch, list_cases
from deepmir.training.recipes import Recipe, read_recipe
from deepmir.training.run import train

Change = Callable[[Recipe], Recipe]

FILTERS = (8, 16, 24, 32)
PATCH = (48, 48, 16)
VALIDATION_SEED, VALIDATION_BATCHES = 30_000_001, 64
OFFSETS = np.arange(-6.0, 7.0)
"""Added to the logits of the findings; for each finding that with the best F1 counts."""
RESULT_NAME = "choices.json"


def _network(**changes: object) -> Change:
    return lambda recipe: replace(recipe, network=replace(recipe.network, **changes))


def _loss(**changes: object) -> Change:
    return lambda recipe: replace(recipe, loss=replace(recipe.loss, **changes))


def _patches(**changes: object) -> Change:
    return lambda recipe: replace(recipe, findings=replace(recipe.findings, **changes))


ARMS: dict[str, Change] = {
    "as released": lambda recipe: recipe,
    "instance norm": _network(norm="instance"),
    "deep supervision": _network(supervised_levels=2),
    "cross-entropy alone": _loss(dice_weight=0.0),
    "focal": _loss(focal_gamma=2.0),
    "patches anywhere": _patches(finding_share=0.0, mimic_share=0.0),
    "no mimics": _patches(mimic_share=0.0),
    "no augmentation": _patches(augment=False),
}


def main() -> None:
    """Train and score what is missing, print all that is there."""
    given = read_options()
    given.out.mkdir(parents=True, exist_ok=True)
    patches = validation_patches(given.cases)
    for seed in given.seeds:
        for arm in given.arms:
            folder = given.out / arm.replace(" ", "-") / f"seed-{seed}"
            if not (folder / RESULT_NAME).exists():
                run_arm(arm, seed, folder, patches, given)
    print_table(given.out)


def read_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=Path, required=True, help="simulated training cases")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto")
    return parser.parse_args()


def recipe_of(arm: str, *, seed: int, steps: int) -> Recipe:
    """Small version of the released recipe, with one choice changed."""
    base = read_recipe("release-findings")
    optimisation = replace(base.optimisation, steps=steps, seed=seed, warmup_steps=steps // 20)
    schedule = replace(base.schedule, validate_every=steps, checkpoint_every=max(steps // 4, 1))
    small = replace(
        base,
        name=arm.replace(" ", "-"),
        network=replace(base.network, filters=FILTERS),
        optimisation=replace(optimisation, ema_decay=0.99),
        schedule=schedule,
        findings=replace(base.findings, shape=PATCH),
    )
    return ARMS[arm](small)


def validation_patches(cases: Path) -> list[Batch]:
    """Draw the fixed patches of the validation heads, the same for all arms."""
    names = list_cases(cases, read_recipe("release-findings").validation_heads)
    sampling = PatchSampling(shape=PATCH, finding_share=0.4, mimic_share=0.25, augment=False)
    batches = []
    for number in range(VALIDATION_BATCHES):
        rng = np.random.default_rng([VALIDATION_SEED, number])
        batches.append(as_batch([draw_patch(cases, names, rng, sampling=sampling) for _ in "1234"]))
    return batches


def run_arm(
    arm: str, seed: int, folder: Path, patches: Sequence[Batch], given: argparse.Namespace
) -> None:
    """Train one network, score it and write what came out."""
    recipe = recipe_of(arm, seed=seed, steps=given.steps)
    options = RunOptions(threads=given.threads, device=given.device)
    print(f"{arm}, seed {seed}", flush=True)
    run = train(recipe, given.cases, folder, options=options, progress=print)
    if not run.finished:
        raise SystemExit("stopped; the same command goes on")
    network = read_network(result_checkpoint(folder, recipe), device=choose_device(given.device))
    result = {"arm": arm, "seed": seed, "steps": given.steps, "f1": best_f1(network, patches)}
    print(json.dumps(result), flush=True)
    (folder / RESULT_NAME).write_text(json.dumps(result) + "\n", encoding="utf-8")


def best_f1(network: torch.nn.Module, patches: Sequence[Batch]) -> dict[str, float]:
    """F1 of each finding over all patches at the offset of the logits that suits it best."""
    device = next(network.parameters()).device
    with torch.inference_mode():
        logits = [network(batch.inputs.to(device)).cpu() for batch in patches]
    best = dict.fromkeys((finding.name for finding in Finding), 0.0)
    for offset in OFFSETS:
        scores = []
        for here, batch in zip(logits, patches, strict=True):
            moved = here.clone()
            moved[:, 1:] += float(offset)
            labels = moved.argmax(dim=1)
            labels[batch.targets[0] == IGNORE] = 0
            scores += map(score_labels, labels.numpy(), batch.targets[0].numpy())
        pooled = pool(scores)
        for finding in Finding:
            best[finding.name] = max(best[finding.name], pooled.of(finding).f1 or 0.0)
    return best


def print_table(out: Path) -> None:
    """Print every arm with the figures of its seeds, and how far it lies from the first."""
    results = [json.loads(path.read_text()) for path in sorted(out.glob(f"*/*/{RESULT_NAME}"))]
    print(
        "\n| choice | " + " | ".join(f"{f.name} F1" for f in Finding) + " | mean | from the first |"
    )
    print("|---" * (len(Finding) + 3) + "|")
    first = _mean([one for one in results if one["arm"] == next(iter(ARMS))])
    for arm in ARMS:
        runs = [one for one in results if one["arm"] == arm]
        if runs:
            figures = [_by_seed(runs, finding.name) for finding in Finding]
            mean = _mean(runs)
            cells = [*figures, f"{mean:.3f}", f"{mean - first:+.3f}"]
            print(f"| {arm} | " + " | ".join(cells) + " |")


def _by_seed(runs: Sequence[Mapping[str, Any]], finding: str) -> str:
    return ", ".join(f"{run['f1'][finding]:.2f}" for run in runs)


def _mean(runs: Sequence[Mapping[str, Any]]) -> float:
    return float(np.mean([list(run["f1"].values()) for run in runs])) if runs else float("nan")


if __name__ == "__main__":
    main()
