"""The cohort of the study: simulated persons as the paper's may have been, made one by one."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from deepmir.io.bids import SubjectOutputs
from deepmir.simulation.cohort import (
    TRUTH_FOLDER,
    open_anatomy,
    person_label,
    person_seed,
    write_person,
)
from deepmir.simulation.lesions import Counts
from deepmir.simulation.person import simulate_person
from deepmir.training.crossval import Budget

PROTOCOL = "mesa-like"
N_PERSONS = 24
_MOST = 60


def mesa_counts(rng: np.random.Generator) -> Counts:
    """Draw counts as in the paper's cohort: about 7 microbleeds each, with a heavy tail.

    Only their sum (about 172 in 24 persons) is published; the median of 3 and the spread are
    our assumption, as are the iron deposits.
    """
    return Counts(
        cmb=_heavy_tailed(rng, median=3.0, sigma=1.3),
        iron=_heavy_tailed(rng, median=5.0, sigma=0.8),
        calcification=int(rng.poisson(2.5)),
        mixed=0,
    )


def make_cohort(
    out: Path,
    *,
    persons: int,
    seed: int,
    anatomies: Sequence[Path] | None,
    budget: Budget,
    progress: Callable[[str], None],
) -> bool:
    """Simulate the persons that are not there yet, while there is time.

    Returns
    -------
    bool
        Whether all are there.

    Raises
    ------
    InputError
        If a label map is no head.
    OutputError
        If a person cannot be written.
    """
    for n in range(persons):
        label = person_label(seed, n)
        if (out / TRUTH_FOLDER / SubjectOutputs(label).findings).exists():
            continue
        if budget.over:
            return False
        progress(f"simulate sub-{label} ({n + 1} of {persons})")
        anatomy = open_anatomy(anatomies[n % len(anatomies)] if anatomies else None)
        person = simulate_person(
            anatomy,
            seed=person_seed(seed, n),
            protocol=PROTOCOL,
            counts=mesa_counts,
            whole_head=True,
        )
        write_person(person, out, subject=label)
    return True


def _heavy_tailed(rng: np.random.Generator, *, median: float, sigma: float) -> int:
    return int(min(round(rng.lognormal(math.log(median), sigma)), _MOST))
