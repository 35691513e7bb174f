"""Hard negatives: where a network finds something in training cases that is not there.

    python benchmarks/mine_false_findings.py --cases cache/cases --weights FOLDER

Writes the places of false findings into each training case's ``mimics.npy`` as kind 2, from which
training draws as often as from all other mimics together (recipe ``release-findings-hard``).
Works on the training heads only, and can be repeated: earlier places of that kind are replaced.
"""

import argparse
from pathlib import Path

import numpy as np
from scipy import ndimage

from deepmir.config import SegmentConfig
from deepmir.model.predict import log_odds, open_network
from deepmir.model.weights import load_weights
from deepmir.training.patches import list_cases, open_case
from deepmir.training.predict import predict_patches

HARD_KIND = 2
TRAIN_HEADS = tuple(range(1, 13))


def main() -> None:
    """Go through all training cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=Path, required=True)
    parser.add_argument("--weights", type=Path)
    options = parser.parse_args()
    weights = load_weights(options.weights)
    network = open_network(weights, "findings", SegmentConfig())
    for name in list_cases(options.cases, TRAIN_HEADS):
        case = open_case(options.cases / name)
        found = predict_patches(network, options.cases / name, present=(True, True, True))
        false = false_findings(log_odds(found), np.asarray(case.labels))
        path = options.cases / name / "mimics.npy"
        mimics = np.minimum(np.load(path), 1)
        mimics[false] = HARD_KIND
        np.save(path.with_suffix(".partial.npy"), mimics)
        path.with_suffix(".partial.npy").replace(path)
        print(name, int(ndimage.label(false)[1]), "false findings", flush=True)


def false_findings(odds: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Voxels of predicted components that touch no label, (I, J, K) bool."""
    predicted = odds.max(axis=0) >= 0
    components, _ = ndimage.label(predicted, structure=np.ones((3, 3, 3)))
    true = np.unique(components[(labels > 0) & predicted])
    return predicted & ~np.isin(components, true)


if __name__ == "__main__":
    main()
