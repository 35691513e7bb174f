"""Answers of other packages that the tests of deepmir.evaluation are compared with.

    python -m venv oracles && oracles/bin/pip install panoptica pingouin statsmodels
    oracles/bin/python benchmarks/oracles.py --out tests/evaluation/oracles.json

panoptica wants an older NumPy than this project's environment has, so its answers on random masks
are computed once, in an environment of its own, and kept. The masks come from seeds.
"""

import argparse
import json
import logging
from importlib import metadata
from pathlib import Path

import numpy as np
from scipy import ndimage

SEEDS = range(40)
SHAPE = (14, 15, 16)


def masks_of(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two masks of blobs, the second a disturbed copy of the first."""
    random = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(random.normal(size=SHAPE), 0.9)
    other = 0.85 * noise + 0.5 * ndimage.gaussian_filter(random.normal(size=SHAPE), 0.9)
    return noise > 1.8 * noise.std(), other > 1.8 * other.std()


def counts_of(seed: int) -> np.ndarray:
    """Draw counts (persons, raters) as persons have lesions, for two raters."""
    random = np.random.default_rng(seed)
    true = random.negative_binomial(1, 0.15, size=18)
    return np.stack([true, np.maximum(0, true + random.integers(-2, 4, size=18))], axis=1)


def main() -> None:
    """Ask the packages and write what they say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    names = ("panoptica", "pingouin", "statsmodels")
    answers = {
        "versions": {name: metadata.version(name) for name in names},
        "panoptica": [panoptica_answer(seed) for seed in SEEDS],
        "icc": [icc_answer(seed) for seed in range(8)],
        "kappa": [kappa_answer(seed) for seed in range(8)],
        "holm": holm_answer(),
    }
    options.out.write_text(json.dumps(answers, indent=1) + "\n", encoding="utf-8")
    print(f"{len(answers['panoptica'])} cases of panoptica, written to {options.out}")


def panoptica_answer(seed: int) -> dict[str, float]:
    """Count with panoptica's defaults for semantic masks."""
    from panoptica import ConnectedComponentsInstanceApproximator, InputType, NaiveThresholdMatching
    from panoptica import Panoptica_Evaluator as Evaluator

    logging.disable(logging.CRITICAL)
    reference, prediction = (mask.astype(np.uint8) for mask in masks_of(seed))
    evaluator = Evaluator(
        expected_input=InputType.SEMANTIC,
        instance_approximator=ConnectedComponentsInstanceApproximator(),
        instance_matcher=NaiveThresholdMatching(),
    )
    result = evaluator.evaluate(prediction, reference, verbose=False)["ungrouped"]
    return {
        "seed": seed,
        "n_reference": int(result.n_ref_instances),
        "n_prediction": int(result.n_pred_instances),
        "tp": int(result.tp),
        "rq": float(result.rq),
        "dice": float(result.global_bin_dsc),
    }


def icc_answer(seed: int) -> dict[str, object]:
    """ICC(A,1) and its interval."""
    import pandas as pd
    import pingouin

    counts = counts_of(seed)
    persons, raters = np.indices(counts.shape)
    table = pd.DataFrame(
        {"person": persons.ravel(), "rater": raters.ravel(), "count": counts.ravel()}
    )
    found = pingouin.intraclass_corr(table, "person", "rater", "count")
    row = found[found["Type"].isin(["ICC2", "ICC(A,1)"])].iloc[0]
    interval = row[next(name for name in found.columns if name.startswith("CI95"))]
    return {"seed": seed, "value": float(row["ICC"]), "interval": [float(v) for v in interval]}


def kappa_answer(seed: int) -> dict[str, float]:
    """Quadratically weighted kappa of the classes 0, 1 to 4, 5 to 10, 11 and more."""
    from statsmodels.stats.inter_rater import cohens_kappa

    classes = np.searchsorted([1, 5, 11], counts_of(seed), side="right")
    table = np.zeros((4, 4))
    np.add.at(table, tuple(classes.T), 1)
    found = cohens_kappa(table, wt="quadratic", return_results=False)
    return {"seed": seed, "value": float(found)}


def holm_answer() -> dict[str, list[float]]:
    """p-values corrected by Holm's method."""
    from statsmodels.stats.multitest import multipletests

    p_values = np.random.default_rng(0).random(12) ** 3
    return {
        "p_values": p_values.tolist(),
        "corrected": multipletests(p_values, method="holm")[1].tolist(),
    }


if __name__ == "__main__":
    main()
