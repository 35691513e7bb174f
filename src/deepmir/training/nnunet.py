"""The same persons and folds as an nnU-Net v2 raw data set, for the baseline of every review.

    OUT/Dataset501_NAME/imagesTr/sub-01_0000.nii.gz …   one file a contrast, on the scan's grid
                        labelsTr/sub-01.nii.gz
                        dataset.json, splits_final.json

Format: https://github.com/MIC-DKFZ/nnUNet, documentation/dataset_format.md,
manual_data_splits.md, ignore_label.md, explanation_normalization.md. Contrasts are those that
`segment` sees: registered, corrected for the receive field, scaled. nnU-Net scales each image
by its own mean and spread unless its channel is called ``noNorm``: so is the susceptibility,
whose zero and sign carry the diagnosis.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from deepmir.errors import ConfigError, InputError
from deepmir.io.atomic import write_text
from deepmir.io.nifti import read_volume, write_map
from deepmir.labels import Finding
from deepmir.model.losses import IGNORE
from deepmir.training.dataset import read_reference_labels
from deepmir.training.folds import FoldPlan
from deepmir.training.patches import open_case
from deepmir.training.prepare import PreparedCase
from deepmir.volume import CHANNELS, FloatMap, Modality, Volume

FILE_ENDING = ".nii.gz"
SPLITS_NAME = "splits_final.json"
_NAME = re.compile(r"[0-9A-Za-z]+")
_CHANNEL_NAMES = {"T2w": "T2w", "swi": "SWI", "Chimap": "noNorm"}


@dataclass(frozen=True, slots=True, kw_only=True)
class NnunetNames:
    """What the data set is called: ``Dataset501_Microbleeds``."""

    number: int = 501
    name: str = "Microbleeds"

    @property
    def folder(self) -> str:
        """Name of the data set's folder.

        Raises
        ------
        ConfigError
            If the number has not three digits, or the name other characters than letters and
            digits.
        """
        if not 1 <= self.number <= 999 or not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"an nnU-Net data set needs a number from 1 to 999 and a name of letters and "
                f"digits, got {self.number} and {self.name!r}"
            )
        return f"Dataset{self.number:03d}_{self.name}"


def export_nnunet(
    cases: Mapping[str, PreparedCase],
    plan: FoldPlan | None,
    out: Path,
    *,
    names: NnunetNames,
    labelled: Sequence[Finding],
) -> Path:
    """Write prepared persons as an nnU-Net raw data set; return its folder.

    Parameters
    ----------
    cases : mapping
        Prepared cases by the person's name.
    plan : FoldPlan or None
        Written as ``splits_final.json``: those who test are nnU-Net's ``val``, all others its
        ``train``, for nnU-Net keeps the last weights and chooses nothing by ``val``.
    out : Path
        The folder that nnU-Net knows as ``nnUNet_raw``.
    names : NnunetNames
    labelled : sequence of Finding
        Findings that become classes; they are numbered 1, 2, … without gaps.

    Raises
    ------
    InputError
        If no contrast is there in all persons, or a file cannot be read.
    ConfigError
        If the data set cannot be called so.
    OutputError
        If a file cannot be written.
    """
    folder = out / names.folder
    kinds = common_contrasts(cases)
    ignored = False
    for name, case in cases.items():
        reference = _reference(case)
        for number, kind in enumerate(kinds):
            path = folder / "imagesTr" / f"{name}_{number:04d}{FILE_ENDING}"
            write_map(_channel_on_scan(case, kind), reference, path, dtype=np.float32)
        labels = class_map(read_reference_labels(case.person, reference), labelled)
        ignored = ignored or bool((labels > len(labelled)).any())
        write_map(labels, reference, folder / "labelsTr" / f"{name}{FILE_ENDING}", dtype=np.uint8)
    described = dataset_json(kinds, labelled, n_persons=len(cases), ignored=ignored)
    write_text(folder / "dataset.json", json.dumps(described, indent=1) + "\n")
    if plan is not None:
        write_text(folder / SPLITS_NAME, json.dumps(splits_of(plan), indent=1) + "\n")
    return folder


def common_contrasts(cases: Mapping[str, PreparedCase]) -> tuple[str, ...]:
    """Contrasts that all persons have, in the network's order: nnU-Net allows no gaps.

    Raises
    ------
    InputError
        If there is none.
    """
    every = [set(case.summary.contrasts) for case in cases.values()]
    shared = set.intersection(*every) if every else set()
    if not shared:
        raise InputError(
            "the persons have no contrast in common, and nnU-Net wants the same ones of all; "
            "leave some persons out by --exclude"
        )
    return tuple(str(kind) for kind in CHANNELS if kind in shared)


def class_map(labels: Volume, labelled: Sequence[Finding]) -> npt.NDArray[np.uint8]:
    """Turn a label map into nnU-Net's classes: 1, 2, … and last the ignored voxels."""
    table = np.zeros(256, dtype=np.uint8)
    for number, finding in enumerate(labelled, start=1):
        table[finding] = number
    table[IGNORE] = len(labelled) + 1
    classes: npt.NDArray[np.uint8] = table[labels.data.astype(np.intp)]
    return classes


def dataset_json(
    kinds: Sequence[str], labelled: Sequence[Finding], *, n_persons: int, ignored: bool
) -> dict[str, object]:
    """Content of ``dataset.json``.

    Examples
    --------
    >>> dataset_json(["swi"], [Finding.CMB], n_persons=3, ignored=True)["labels"]
    {'background': 0, 'CMB': 1, 'ignore': 2}
    """
    labels = {"background": 0, **{f.name: n for n, f in enumerate(labelled, start=1)}}
    if ignored:
        labels["ignore"] = len(labelled) + 1  # nnU-Net wants it to be the highest
    return {
        "channel_names": {str(n): _CHANNEL_NAMES[kind] for n, kind in enumerate(kinds)},
        "labels": labels,
        "numTraining": n_persons,
        "file_ending": FILE_ENDING,
    }


def splits_of(plan: FoldPlan) -> list[dict[str, list[str]]]:
    """Content of ``splits_final.json``: one entry a fold."""
    return [
        {"train": sorted((*fold.train, *fold.validation)), "val": list(fold.test)}
        for fold in plan.folds
    ]


def _reference(case: PreparedCase) -> Volume:
    modality = Modality.SWI if case.person.swi is not None else Modality.CHIMAP
    return read_volume(case.person.reference, modality)[0]


def _channel_on_scan(case: PreparedCase, kind: str) -> FloatMap:
    channel = open_case(case.folder).channels[CHANNELS.index(Modality(kind))]
    on_scan: FloatMap = case.to_scan(np.asarray(channel, dtype=np.float32)[np.newaxis])[0]
    return on_scan
