"""Folds: nobody is lost, no group is split, loads are even, and the plan outlives the process."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepmir.errors import ConfigError, InputError, TrainingError
from deepmir.training.dataset import PersonSummary
from deepmir.training.folds import plan_folds, plan_split, read_plan, settle_plan


def persons_of(loads, group=lambda n: f"g{n}"):
    return [
        PersonSummary(f"sub-{n:02d}", group(n), ("swi",), (load, 0, 0))
        for n, load in enumerate(loads)
    ]


loads = st.lists(st.integers(0, 60), min_size=6, max_size=40)


@given(loads, st.integers(2, 6), st.integers(0, 99), st.integers(1, 3))
def test_everyone_is_tested_once_and_no_group_is_split(values, n_folds, seed, members):
    persons = persons_of(values, lambda n: f"g{n // members}")
    groups = {person.name: person.group for person in persons}
    n_groups = len(set(groups.values()))
    if n_groups < n_folds or n_groups - math.ceil(n_groups / n_folds) < 2:
        with pytest.raises(ConfigError, match="two groups beside each fold"):
            plan_folds(persons, n_folds=n_folds, seed=seed)
        return
    plan = plan_folds(persons, n_folds=n_folds, seed=seed)
    assert sorted(name for fold in plan.folds for name in fold.test) == sorted(groups)
    for fold in plan.folds:
        roles = [
            {groups[name] for name in role} for role in (fold.train, fold.validation, fold.test)
        ]
        assert sum(map(len, roles)) == len(set.union(*roles))
        assert all(roles)
        assert len(fold.train) + len(fold.validation) + len(fold.test) == len(persons)


@given(loads, st.integers(2, 5))
def test_folds_differ_by_one_person_and_their_loads_by_the_heaviest(values, n_folds):
    plan = plan_folds(persons_of(values), n_folds=n_folds, seed=1)
    sizes = [len(fold.test) for fold in plan.folds]
    sums = [sum(plan.loads[name] for name in fold.test) for fold in plan.folds]
    assert max(sizes) - min(sizes) <= 1
    assert max(sums) - min(sums) <= max(values)


def test_leave_one_out_has_one_fold_a_group():
    persons = persons_of([5, 3, 0, 2, 1, 4], lambda n: f"g{n // 2}")
    plan = plan_folds(persons, n_folds=None, seed=0)
    assert len(plan.folds) == 3
    assert sorted(fold.test for fold in plan.folds) == [
        ("sub-00", "sub-01"), ("sub-02", "sub-03"), ("sub-04", "sub-05"),
    ]  # fmt: skip


def test_a_fifth_of_the_others_validates():
    plan = plan_folds(persons_of(range(25)), n_folds=5, seed=0)
    assert [len(fold.validation) for fold in plan.folds] == [4] * 5


def test_the_seed_decides_among_equal_loads_only():
    flat = persons_of([1] * 12)
    assert plan_folds(flat, n_folds=3, seed=1) == plan_folds(flat, n_folds=3, seed=1)
    assert plan_folds(flat, n_folds=3, seed=1).folds != plan_folds(flat, n_folds=3, seed=2).folds
    steep = persons_of(range(12))
    assert plan_folds(steep, n_folds=3, seed=1).folds == plan_folds(steep, n_folds=3, seed=2).folds


@pytest.mark.parametrize(("count", "n_folds"), [(4, 5), (2, 2), (6, 1)])
def test_too_few_persons_are_refused(count, n_folds):
    with pytest.raises(ConfigError, match="wanted at least 2 folds"):
        plan_folds(persons_of([1] * count), n_folds=n_folds, seed=0)


def test_persons_of_one_head_cannot_be_split():
    with pytest.raises(ConfigError, match="see --group-by"):
        plan_folds(persons_of([1] * 8, lambda _: "head"), n_folds=2, seed=0)
    with pytest.raises(ConfigError, match="see --group-by"):
        plan_split(persons_of([1] * 8, lambda _: "head"), seed=0)


def test_a_split_tests_nobody():
    fold = plan_split(persons_of(range(10)), seed=0)
    assert (len(fold.train), len(fold.validation), fold.test) == (8, 2, ())


def test_a_plan_on_disk_is_kept(tmp_path):
    path, persons = tmp_path / "folds.json", persons_of(range(9))
    plan = settle_plan(path, persons, n_folds=3, seed=1)
    assert settle_plan(path, persons, n_folds=3, seed=99) == plan == read_plan(path)
    assert plan.fold(1) == plan.folds[0]
    with pytest.raises(ConfigError, match="no fold 4; wanted 1 to 3"):
        plan.fold(4)


def test_a_plan_of_other_persons_is_refused(tmp_path):
    path, persons = tmp_path / "folds.json", persons_of(range(9))
    settle_plan(path, persons, n_folds=3, seed=1)
    with pytest.raises(TrainingError, match="sub-08 changed"):
        settle_plan(path, persons[:-1], n_folds=3, seed=1)
    other = [*persons[:-1], replace(persons[-1], lesions=(99, 0, 0))]
    with pytest.raises(TrainingError, match="sub-08 changed"):
        settle_plan(path, other, n_folds=3, seed=1)
    with pytest.raises(TrainingError, match="are 3, so they are not those of this data and 4"):
        settle_plan(path, persons, n_folds=4, seed=1)


def test_a_damaged_plan_is_refused(tmp_path):
    path = tmp_path / "folds.json"
    path.write_text(json.dumps({"seed": 1}))
    with pytest.raises(InputError, match="holds no folds"):
        read_plan(path)
