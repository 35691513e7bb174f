"""Running a network in training over whole prepared cases.

findings part   windows → probabilities on the case's grid, as `segment` does
slices part     slices  → classes on the case's grid
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from deepmir.model.predict import Network, predict_windows
from deepmir.model.weights import NetworkInputs
from deepmir.segmentation import without_calcification
from deepmir.training.patches import Case, basal_ganglia_of, open_case
from deepmir.training.slices import (
    SliceCase,
    SliceSampling,
    cut_slice,
    findings_of_classes,
    place_of,
)
from deepmir.volume import FloatMap, Present

WINDOW = NetworkInputs().findings_window
OVERLAP = 0.25
_SLICES_AT_A_TIME = 8


@dataclass(frozen=True, slots=True, eq=False)
class SliceLogits:
    """What a network says to all slices of a person that show brain."""

    slices: npt.NDArray[np.intp]  # their numbers
    logits: FloatMap  # (C, I, J, n_slices), on the grid of the case


def predict_patches(network: Network, folder: Path, *, present: Present) -> FloatMap:
    """Softened probabilities of background and each finding on a case's grid: (4, I, J, K).

    :func:`deepmir.model.predict.log_odds` undoes the softening; all are 0 outside the brain.

    Without a Chimap the probability of CALCIFICATION counts as that of CMB.

    Parameters
    ----------
    network : Network
        The findings part, ready to run on any device.
    folder : Path
        A prepared case.
    present : tuple of bool
        Which of T2w, swi and Chimap the network is shown.

    Raises
    ------
    InputError
        If the case cannot be read.
    """
    case = open_case(folder)
    brain = np.asarray(case.brain) > 0
    softened = predict_windows(
        network,
        findings_channels(case, folder, present),
        window=WINDOW,
        overlap=OVERLAP,
        where=brain,
    )
    softened *= brain
    return softened if present[2] else without_calcification(softened)


def findings_channels(case: Case, folder: Path, present: Present) -> FloatMap:
    """Input of the findings part for a whole case: (8, I, J, K)."""
    stack = np.zeros((8, *case.brain.shape), dtype=np.float32)
    for channel, given in enumerate(present):
        if given:
            stack[channel], stack[3 + channel] = case.channels[channel], 1
    stack[6] = _context(folder / "brain_probability.npy", lambda: np.asarray(case.brain) > 0)
    stack[7] = _context(
        folder / "basal_ganglia_probability.npy", lambda: basal_ganglia_of(np.asarray(case.regions))
    )
    return stack


def _context(path: Path, otherwise: Callable[[], npt.NDArray[np.generic]]) -> FloatMap:
    """Probability map of a prepared case; simulated cases have the truth only."""
    values = np.load(path, allow_pickle=False) if path.exists() else otherwise()
    return np.asarray(values, dtype=np.float32)


@torch.inference_mode()
def predict_slices(
    network: nn.Module, person: SliceCase, sampling: SliceSampling, *, device: torch.device
) -> SliceLogits:
    """Run a network on all slices of a person that show brain."""
    at = place_of(person, sampling)
    made = []
    for first in range(0, len(person.with_brain), _SLICES_AT_A_TIME):
        some = person.with_brain[first : first + _SLICES_AT_A_TIME]
        inputs = np.stack([cut_slice(person, int(k), sampling)[0] for k in some])
        logits = network(torch.from_numpy(inputs).to(device)).float().cpu().numpy()
        made.append(logits[(slice(None), slice(None), *at)])
    logits = np.concatenate(made) if made else np.zeros((0, sampling.n_outputs, 1, 1), np.float32)
    return SliceLogits(person.with_brain, np.moveaxis(logits, 0, -1))


def labels_of_slices(
    found: SliceLogits, person: SliceCase, sampling: SliceSampling
) -> npt.NDArray[np.uint8]:
    """Label map (I, J, K) of findings: sigmoid at 0.5 for one finding, else the likeliest class."""
    labels = np.zeros(person.case.brain.shape, dtype=np.uint8)
    if sampling.n_outputs == 1:
        classes = (found.logits[0] >= 0).astype(np.intp)
    else:
        classes = found.logits.argmax(axis=0)
    labels[:, :, found.slices] = findings_of_classes(classes, sampling)
    labels[np.asarray(person.case.brain) == 0] = 0
    return labels
