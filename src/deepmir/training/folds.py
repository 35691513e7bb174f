"""Who trains, who validates and who tests: folds by group, stratified by finding load.

A group is a person, or all persons that share a head, a family or a site; it is never split.
The plan is written down before anything trains, so that folds can run side by side on several
machines and a reader can repeat them.
"""

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from deepmir.errors import ConfigError, InputError, TrainingError
from deepmir.io.atomic import write_text
from deepmir.training.dataset import PersonSummary

FOLDS_NAME = "folds.json"
VALIDATION_SHARE = 0.2
"""Share of the groups that do not test which validates; the paper takes 20 to 25 %."""

_STRICT = ConfigDict(extra="forbid")


@checked_dataclass(frozen=True, slots=True, config=_STRICT)
class Fold:
    """Names of the persons of one fold."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


@checked_dataclass(frozen=True, slots=True, config=_STRICT)
class FoldPlan:
    """All folds of a study, and what they were made of."""

    seed: int
    groups: dict[str, str]  # of each person
    loads: dict[str, int]  # of each person: microbleeds and iron deposits
    folds: tuple[Fold, ...]

    def fold(self, number: int) -> Fold:
        """Return fold `number`, counted from 1.

        Raises
        ------
        ConfigError
            If there is no such fold.
        """
        if not 1 <= number <= len(self.folds):
            raise ConfigError(f"there is no fold {number}; wanted 1 to {len(self.folds)}")
        return self.folds[number - 1]


@dataclass(frozen=True, slots=True)
class _Group:
    name: str
    persons: tuple[str, ...]
    load: int


_PLAN: TypeAdapter[FoldPlan] = TypeAdapter(FoldPlan)


def plan_folds(persons: Sequence[PersonSummary], *, n_folds: int | None, seed: int) -> FoldPlan:
    """Divide persons into folds: each person is tested once.

    Groups are taken from the largest load to the smallest, `n_folds` at a time, and the fold
    with the least load so far gets the largest of them; so folds differ by at most one group,
    and loads are as even as that allows. Ties are broken by `seed`.

    Parameters
    ----------
    persons : sequence of PersonSummary
    n_folds : int or None
        None: one fold a group (leave one out).
    seed : int
        Of the order among groups of equal load.

    Raises
    ------
    ConfigError
        If there are fewer groups than folds, or a fold leaves less than two groups beside it.
    """
    groups = _groups(persons, seed)
    count = len(groups) if n_folds is None else n_folds
    left = len(groups) - math.ceil(len(groups) / max(count, 1))
    if count < 2 or len(groups) < count or left < 2:
        raise ConfigError(
            f"{count} folds of {len(persons)} persons in {len(groups)} groups: wanted at least 2 "
            "folds, a group a fold, and two groups beside each fold to train and to validate; "
            "persons of one head or family count as one group (see --group-by)"
        )
    tests: list[list[_Group]] = [[] for _ in range(count)]
    for first in range(0, len(groups), count):
        emptiest = sorted(range(count), key=lambda n: (sum(g.load for g in tests[n]), n))
        for fold, group in zip(emptiest, groups[first : first + count], strict=False):
            tests[fold].append(group)
    folds = tuple(
        _fold(test, [g for g in groups if g not in test], number)
        for number, test in enumerate(tests)
    )
    return FoldPlan(
        seed,
        {person.name: person.group for person in persons},
        {person.name: person.load for person in persons},
        folds,
    )


def plan_split(persons: Sequence[PersonSummary], *, seed: int) -> Fold:
    """Divide persons into those that train and those that validate; nobody tests.

    Raises
    ------
    ConfigError
        If all persons are of one group.
    """
    groups = _groups(persons, seed)
    if len(groups) < 2:
        raise ConfigError(
            f"{len(persons)} persons of {len(groups)} group: wanted at least 2, one to train and "
            "one to validate (see --group-by)"
        )
    return _fold([], groups, 0)


def write_plan(plan: FoldPlan, path: Path) -> None:
    """Write the folds as JSON.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    write_text(path, json.dumps(_PLAN.dump_python(plan, mode="json"), indent=1) + "\n")


def read_plan(path: Path) -> FoldPlan:
    """Read folds that were written down.

    Raises
    ------
    InputError
        If the file is missing or holds no folds.
    """
    try:
        return _PLAN.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise InputError(f"{path} holds no folds: {error}; remove it to plan anew") from error


def settle_plan(
    path: Path, persons: Sequence[PersonSummary], *, n_folds: int | None, seed: int
) -> FoldPlan:
    """Read the folds that were written down, or plan and write them.

    Raises
    ------
    ConfigError
        As :func:`plan_folds`.
    TrainingError
        If the folds on disk are of other persons, groups or loads, or of another number.
    """
    if not path.exists():
        write_plan(plan_folds(persons, n_folds=n_folds, seed=seed), path)
    plan = read_plan(path)
    now = {person.name: (person.group, person.load) for person in persons}
    then = {name: (group, plan.loads[name]) for name, group in plan.groups.items()}
    wanted = len(set(plan.groups.values())) if n_folds is None else n_folds
    if now != then or len(plan.folds) != wanted:
        changed = sorted(
            name for name in now.keys() | then.keys() if now.get(name) != then.get(name)
        )
        what = f"of {', '.join(changed[:5])} changed" if changed else f"are {len(plan.folds)}"
        raise TrainingError(
            f"the folds in {path} {what}, so they are not those of this data and {wanted} folds; "
            "give a fresh --out, or remove that file to plan anew"
        )
    return plan


def _groups(persons: Sequence[PersonSummary], seed: int) -> list[_Group]:
    """Sort groups from the largest load to the smallest, equal ones as `seed` draws."""
    members: defaultdict[str, list[PersonSummary]] = defaultdict(list)
    for person in persons:
        members[person.group].append(person)
    groups = [
        _Group(name, tuple(p.name for p in some), sum(p.load for p in some))
        for name, some in members.items()
    ]
    return sorted(groups, key=lambda group: (-group.load, _draw(seed, group.name)))


def _draw(seed: int, name: str) -> str:
    return hashlib.sha256(f"{seed} {name}".encode()).hexdigest()


def _fold(test: Sequence[_Group], others: Sequence[_Group], number: int) -> Fold:
    """Take every so manieth of the other groups, by load, to validate; which, differs by fold."""
    n_validation = max(1, round(len(others) * VALIDATION_SHARE))
    places = np.linspace(0, len(others), n_validation, endpoint=False) + number % 5
    chosen = {int(place) % len(others) for place in places}
    return Fold(
        train=_names(g for n, g in enumerate(others) if n not in chosen),
        validation=_names(g for n, g in enumerate(others) if n in chosen),
        test=_names(test),
    )


def _names(groups: Iterable[_Group]) -> tuple[str, ...]:
    return tuple(sorted(name for group in groups for name in group.persons))
