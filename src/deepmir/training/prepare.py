"""Labelled persons as cases on disk: prepared once, by the preprocessing of `segment`.

    scans, labels ──prepare──▶ channels, brain, regions ──crop, findings grid──▶ CASES/sub-01-<key>

The key is a checksum of everything that the case depends on: scans, labels, the anatomy
network, settings. A changed input is prepared anew; the case made from the earlier one goes.
The format is that of :mod:`deepmir.simulation.cases`, with the probabilities that the findings
part is given at `segment`, and with the way back to the scan's grid.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from deepmir.config import Config, as_dict
from deepmir.errors import InputError
from deepmir.geometry import Shape
from deepmir.io.atomic import temporary_name, writing
from deepmir.io.nifti import read_volume
from deepmir.model.losses import IGNORE
from deepmir.model.predict import WINDOW_MULTIPLE, bounding_box
from deepmir.model.weights import ONNX_FILES, Part, Weights
from deepmir.preprocessing.resample import along_axis
from deepmir.preprocessing.run import Prepared, prepare
from deepmir.segmentation import FindingsGrid, plan_grid, to_findings_grid, to_native_grid
from deepmir.training.dataset import (
    LabelledPerson,
    PersonSummary,
    check_persons,
    read_reference_labels,
)
from deepmir.volume import BoolMap, FloatMap, IntMap, Modality, Scans

CASE_VERSION = 1
"""Raised when the same inputs give another case."""
_PREPARING_PARTS: tuple[Part, ...] = ("anatomy", "nuclei")
DARK_SWI = -0.7
"""Scaled SWI below which a voxel could be taken for a finding: a vein is about -1."""
STRONG_CHI = 0.6
"""Scaled susceptibility (0.15 ppm) beyond which a voxel could be."""
_NEAR_VOXELS = 3

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class PreparedCase:
    """One prepared case and the way back to the grid of its scan."""

    person: LabelledPerson
    folder: Path
    summary: PersonSummary
    plan: FindingsGrid
    box: tuple[tuple[int, int], ...]  # of the scan's RAS+ grid
    shape: Shape  # of the scan's RAS+ grid

    def to_scan(self, probabilities: FloatMap) -> FloatMap:
        """Bring probabilities (C, I, J, K) from the case's grid onto the scan's RAS+ grid."""
        inside = tuple(slice(*side) for side in self.box)
        extent = tuple(last - first for first, last in self.box)
        full = np.zeros((probabilities.shape[0], *self.shape), dtype=np.float32)
        full[(slice(None), *inside)] = to_native_grid(probabilities, self.plan, extent)
        return full


def prepare_persons(
    persons: Sequence[LabelledPerson],
    cases: Path,
    *,
    weights: Weights,
    config: Config,
    progress: Progress = lambda _: None,
) -> tuple[PreparedCase, ...]:
    """Check, then prepare, every person that is not prepared yet.

    Several processes may share `cases`: a case appears only when it is complete.

    Raises
    ------
    InputError, GeometryError
        If a scan or label map is not what it should be; it names the person.
    OutputError
        If a case cannot be written.
    """
    folders = [
        cases / f"{person.name}-{case_key(person, weights, config)[:12]}" for person in persons
    ]
    todo = [
        (person, folder)
        for person, folder in zip(persons, folders, strict=True)
        if not (folder / "case.json").exists()
    ]
    progress(f"check {len(todo)} persons, {len(persons) - len(todo)} are prepared already")
    summaries = check_persons([person for person, _ in todo])
    for number, ((person, folder), summary) in enumerate(zip(todo, summaries, strict=True), 1):
        progress(f"prepare {person.name} ({number} of {len(todo)})")
        _prepare_one(person, folder, summary, weights=weights, config=config)
        _remove_earlier(person, folder)
    return tuple(map(open_prepared, persons, folders))


def case_key(person: LabelledPerson, weights: Weights, config: Config) -> str:
    """Checksum of all that a case depends on."""
    files = (person.t2w, person.swi, person.chimap, person.labels)
    described = {
        "version": CASE_VERSION,
        "files": [None if path is None else _sha256(path) for path in files],
        "anatomy": [
            weights.manifest.files[ONNX_FILES[part]].sha256
            for part in _PREPARING_PARTS
            if weights.has(part)
        ],
        "preprocess": as_dict(config)["preprocess"],
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def open_prepared(person: LabelledPerson, folder: Path) -> PreparedCase:
    """Read what a prepared case says of itself.

    Raises
    ------
    InputError
        If it is damaged.
    """
    try:
        stored = json.loads((folder / "case.json").read_text(encoding="utf-8"))
        plan = FindingsGrid(**{name: tuple(value) for name, value in stored["plan"].items()})
        summary = PersonSummary(
            person.name, person.group, tuple(stored["contrasts"]), tuple(stored["lesions"])
        )
        box = tuple((int(first), int(last)) for first, last in stored["box"])
        return PreparedCase(person, folder, summary, plan, box, tuple(stored["shape"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"the prepared case {folder} is damaged ({error}); remove that folder"
        ) from error


def case_arrays(prepared: Prepared, labels: IntMap) -> dict[str, npt.NDArray[np.generic]]:
    """Arrays of a case: the box around the brain, on the findings part's grid."""
    plan, box = plan_grid(prepared.grid), case_box(prepared)
    mask = prepared.brain_mask[box]
    channels = np.stack([to_findings_grid(channel[box], plan) for channel in prepared.channels])
    brain = to_findings_grid(mask.astype(np.float32), plan) > 0
    found = labels_on_grid(labels[box], plan)
    return {
        "channels": channels.astype(np.float16),
        "labels": found,
        "mimics": mimics_of(channels, brain, found),
        "brain": brain.astype(np.uint8),
        "regions": _regions_on_grid(prepared.regions[box], plan),
        "brain_probability": _half(prepared.brain_probability[box], plan),
        "basal_ganglia_probability": _half(prepared.basal_ganglia_probability[box], plan),
    }


def case_box(prepared: Prepared) -> tuple[slice, slice, slice]:
    """Box of the scan's grid that a case covers: the brain and the step of a window."""
    margin = [0, 0, 0]
    for axis, step in zip(plan_grid(prepared.grid).order, WINDOW_MULTIPLE, strict=True):
        margin[axis] = step
    return bounding_box(prepared.brain_mask, margin=(margin[0], margin[1], margin[2]))


def labels_on_grid(labels: IntMap, plan: FindingsGrid) -> npt.NDArray[np.uint8]:
    """Bring a label map onto the findings part's grid: each voxel takes the likeliest label."""
    values = sorted(set(np.unique(labels).tolist()) - {0})
    result: npt.NDArray[np.uint8] | None = None
    best: FloatMap | None = None
    for value in values:
        share = to_findings_grid((labels == value).astype(np.float32), plan)
        if result is None or best is None:
            result, best = np.zeros(share.shape, np.uint8), np.full(share.shape, 0.5, np.float32)
        wins = share >= best
        result[wins], best[wins] = value, share[wins]
    if result is None:
        nothing = to_findings_grid(np.zeros(labels.shape, np.float32), plan)
        return np.zeros(nothing.shape, np.uint8)
    return result


def mimics_of(
    channels: FloatMap, brain: BoolMap, labels: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8]:
    """Voxels that could be taken for a finding and are none: 1 dark on SWI, 2 strong χ.

    A study's labels do not say where its veins and calcified plexus are, but sampling should
    go there more often than chance would.
    """
    free = brain & ~ndimage.binary_dilation(labels > 0, iterations=_NEAR_VOXELS)
    mimics = np.zeros(brain.shape, dtype=np.uint8)
    mimics[free & (np.abs(channels[2]) > STRONG_CHI)] = 2
    mimics[free & (channels[1] < DARK_SWI)] = 1
    return mimics


def _prepare_one(
    person: LabelledPerson,
    folder: Path,
    summary: PersonSummary,
    *,
    weights: Weights,
    config: Config,
) -> None:
    prepared = prepare(_read_scans(person), weights, config)
    labels = _labels_of(person, prepared)
    described = {
        "person": person.name,
        "group": person.group,
        "contrasts": summary.contrasts,
        "lesions": summary.lesions,
        "spacing_mm": plan_grid(prepared.grid).target_mm,
        "plan": asdict(plan_grid(prepared.grid)),
        "box": [(side.start, side.stop) for side in case_box(prepared)],
        "shape": prepared.grid.shape,
        "lesions_outside_brain": _n_outside(labels, prepared.brain_mask),
        "notices": [notice.message for notice in prepared.notices],
    }
    _write(folder, case_arrays(prepared, labels), described)


def _labels_of(person: LabelledPerson, prepared: Prepared) -> IntMap:
    """Label map on the grid of the reference scan; nothing where nobody has labelled."""
    if person.labels is None:
        return np.zeros(prepared.reference.data.shape, dtype=np.uint8)
    return cast(IntMap, read_reference_labels(person, prepared.reference).data)


def _read_scans(person: LabelledPerson) -> Scans:
    t2w, swi, chimap = (
        None if path is None else read_volume(path, modality)[0]
        for path, modality in (
            (person.t2w, Modality.T2W),
            (person.swi, Modality.SWI),
            (person.chimap, Modality.CHIMAP),
        )
    )
    return Scans(t2w=t2w, swi=swi, chimap=chimap)


def _n_outside(labels: IntMap, brain: BoolMap) -> int:
    """Count the lesions that no voxel of the brain mask touches."""
    lesion = (labels != 0) & (labels != IGNORE)
    components, count = ndimage.label(lesion, structure=np.ones((3, 3, 3)))
    return count - len(set(np.unique(components[brain]).tolist()) - {0})


def _regions_on_grid(regions: npt.NDArray[np.uint8], plan: FindingsGrid) -> npt.NDArray[np.uint8]:
    """Bring a region map onto the findings part's grid by nearest neighbour."""
    result = regions.transpose(plan.order)
    for axis in (0, 1):
        n, ratio = result.shape[axis], plan.target_mm[axis] / plan.spacing_mm[axis]
        nearest = np.rint(along_axis(max(round(n / ratio), 1), ratio)).astype(np.intp)
        result = result.take(nearest.clip(0, n - 1), axis=axis)
    return np.ascontiguousarray(result)


def _half(image: FloatMap, plan: FindingsGrid) -> npt.NDArray[np.float16]:
    return to_findings_grid(image, plan).astype(np.float16)


def _write(
    folder: Path, arrays: dict[str, npt.NDArray[np.generic]], described: dict[str, Any]
) -> None:
    temporary = folder.parent / temporary_name()
    with writing(folder):
        temporary.mkdir(parents=True)
        try:
            for name, array in arrays.items():
                np.save(temporary / f"{name}.npy", array)
            text = json.dumps(described, indent=1) + "\n"
            (temporary / "case.json").write_text(text, encoding="utf-8")
            if not folder.exists():  # another process may have been faster: same key, same case
                temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _remove_earlier(person: LabelledPerson, folder: Path) -> None:
    for path in folder.parent.glob(f"{person.name}-*"):
        if path != folder and path.name.rpartition("-")[0] == person.name:
            shutil.rmtree(path, ignore_errors=True)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; check the path") from error
