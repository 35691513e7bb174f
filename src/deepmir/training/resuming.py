"""Which settings of a recipe may be others when a run goes on.

    recipe then, recipe now ──changed_settings──▶ what is said, or a refusal

What a failure asks for (a lower rate, less memory) may change; what is learnt may not.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from deepmir.errors import TrainingError
from deepmir.training.recipes import Recipe, recipe_as_dict

_BESIDE = frozenset(
    {
        "name",
        "schedule.log_every",
        "schedule.checkpoint_every",
        "schedule.checkpoint_minutes",
        "schedule.prefetch",
        "schedule.tensorboard",
    }
)
"""Nothing that is learnt depends on these, so nothing is said of them."""
_CHANGEABLE = frozenset(
    {
        "optimisation.steps",
        "optimisation.learning_rate",
        "optimisation.clip_norm",
        "optimisation.bf16",
        "optimisation.checkpointing",
    }
)
_OF_STEPS = frozenset({"optimisation.batch_size", "findings.shape"})
"""Where a run is counted in epochs, a step of another batch is another place in its data."""
_SHOWN = 4


def changed_settings(then: Recipe, now: Recipe, *, began: str) -> tuple[str, ...]:
    """List the settings that are others than a run began with, to be said.

    Parameters
    ----------
    began : str
        First words of the refusal: which run began with another recipe.

    Raises
    ------
    TrainingError
        If one of them makes it another run.

    Examples
    --------
    >>> from dataclasses import replace
    >>> from deepmir.training.recipes import read_recipe
    >>> then = read_recipe("fine-tune")
    >>> lower = replace(then.optimisation, learning_rate=1e-4)
    >>> changed_settings(then, replace(then, optimisation=lower), began="it began with another")
    ('optimisation.learning_rate = 0.0001 (was 0.0003)',)
    """
    changed = dict(_differences(then, now))
    may = _CHANGEABLE if "slices" in (then.part, now.part) else _CHANGEABLE | _OF_STEPS
    others = [text for name, text in changed.items() if name not in may | _BESIDE]
    if others:
        more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
        raise TrainingError(
            f"{began}: {', '.join(others[:_SHOWN])}{more}; take that recipe again, give a fresh "
            "--out, or --no-resume to start anew"
        )
    return tuple(text for name, text in changed.items() if name not in _BESIDE)


def _differences(then: Recipe, now: Recipe) -> Iterator[tuple[str, str]]:
    """Give the name of every setting that differs, and what to say of it."""
    before = dict(_settings(recipe_as_dict(then)))
    for name, value in _settings(recipe_as_dict(now)):
        if value != before[name]:
            yield name, f"{name} = {value} (was {before[name]})"


def _settings(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _settings(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
