"""Training cases on disk: simulated heads, scaled as the network wants them, memory-mapped.

A case is a folder of ``.npy`` files on the grid of the scan, the slice axis last:
``channels`` (3, I, J, K) float16 scaled as in :mod:`deepmir.preprocessing.normalize`;
``labels`` uint8 (numbers of :class:`deepmir.labels.Finding`, 255 where no label can be given);
``mimics``, ``brain`` and ``regions`` uint8; and ``case.json``.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from deepmir.errors import InputError
from deepmir.memory import keep_freed_memory
from deepmir.preprocessing.normalize import scale_chi, scale_swi, scale_t2w
from deepmir.simulation.anatomy import load_anatomy
from deepmir.simulation.lesions import training_counts
from deepmir.simulation.person import SimulatedPerson, parameters_text, simulate_person
from deepmir.simulation.truth import Mimic
from deepmir.volume import BoolMap

CROP_MARGIN_VOXELS = 4
_SHOWN = (Mimic.VEIN, Mimic.MIXED, Mimic.FRINGE)  # often; spaces and dropout come with the rest


@dataclass(frozen=True, slots=True)
class CaseJob:
    """One case that is to be simulated: the same job gives the same bytes."""

    anatomy: Path  # .npz
    folder: Path
    seed: int

    @property
    def is_done(self) -> bool:
        """Whether the case is there, and whole."""
        return (self.folder / "case.json").exists()


def case_job(anatomies: Sequence[Path], out: Path, *, seed: int, number: int) -> CaseJob:
    """Job of case `number`: a pure function of `seed` and `number`, going round the anatomies."""
    anatomy = anatomies[number % len(anatomies)]
    return CaseJob(anatomy, out / f"case-{number:05d}", seed + number)


def simulate_case(job: CaseJob) -> None:
    """Simulate one case and write it; the folder appears only when it is complete.

    Raises
    ------
    InputError
        If the anatomy cannot be read.
    """
    person = simulate_person(load_anatomy(job.anatomy), seed=job.seed, counts=training_counts)
    write_case(person, job.folder)


def write_cases(
    anatomies: Sequence[Path],
    out: Path,
    *,
    numbers: range,
    seed: int,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Simulate the training cases of these numbers, going round the anatomies; resumes.

    Case n is a pure function of `seed` and n, so a folder can grow and be rebuilt; cases that
    are there already are kept.

    Raises
    ------
    InputError
        If there is no anatomy, or one cannot be read.
    """
    if not anatomies:
        raise InputError("no anatomies given; pass at least one finished anatomy (.npz)")
    out.mkdir(parents=True, exist_ok=True)
    jobs = [case_job(anatomies, out, seed=seed, number=number) for number in numbers]
    jobs = [job for job in jobs if not job.is_done]
    with ProcessPoolExecutor(workers, initializer=keep_freed_memory) as pool:
        for done, _ in enumerate(pool.map(simulate_case, jobs), start=1):
            if progress is not None:
                progress(done, len(jobs))


def write_case(person: SimulatedPerson, folder: Path) -> None:
    """Write one person as a training case; the folder appears only when it is complete."""
    temporary = folder.with_name(f".{folder.name}-{os.getpid()}")
    temporary.mkdir(parents=True)
    try:
        for name, array in _arrays(person).items():
            np.save(temporary / f"{name}.npy", array)
        (temporary / "case.json").write_text(parameters_text(person), encoding="utf-8")
        if not (folder / "case.json").exists():  # another process may have been faster
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _arrays(person: SimulatedPerson) -> dict[str, npt.NDArray[np.generic]]:
    scan, step = person.acquisition, person.protocol.spacing_mm
    channels = np.stack(
        [
            scale_t2w(scan.t2w, scan.brain, spacing_mm=step),
            scale_swi(person.swi, scan.brain, spacing_mm=step),
            scale_chi(person.chi_ppm, scan.brain & person.chi_mask, spacing_mm=step),
        ]
    )
    box = _crop(scan.brain)
    return {
        "channels": channels[(slice(None), *box)].astype(np.float16),
        "labels": person.findings[box].astype(np.uint8),
        "mimics": np.isin(person.mimics[box], _SHOWN).astype(np.uint8),
        "brain": scan.brain[box].astype(np.uint8),
        "regions": scan.regions[box].astype(np.uint8),
    }


def _crop(brain: BoolMap) -> tuple[slice, slice, slice]:
    slices = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        used = np.flatnonzero(brain.any(axis=others))
        first, last = int(used[0]) - CROP_MARGIN_VOXELS, int(used[-1]) + CROP_MARGIN_VOXELS + 1
        slices.append(slice(max(first, 0), min(last, brain.shape[axis])))
    return slices[0], slices[1], slices[2]
