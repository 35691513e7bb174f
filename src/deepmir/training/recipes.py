"""Recipes: everything that decides a training run, as data.

A recipe is one TOML file; the package brings those of the released network, `fine-tune`, and
the paper's own (`paper-single`, `paper-multi`). An unknown key is an error. The resolved recipe
is stored in every checkpoint.
"""

import json
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from deepmir.errors import ConfigError
from deepmir.model.unet import UNetSpec
from deepmir.training.anatomy_samples import AnatomySampling
from deepmir.training.fresh import FreshConfig
from deepmir.training.nuclei_cases import NucleiSampling
from deepmir.training.patches import PatchSampling
from deepmir.training.slices import SliceSampling

_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class OptimisationConfig:
    """How the weights move."""

    steps: int | None = Field(default=None, gt=0)
    """Length of the whole schedule; either this or `epochs`."""
    epochs: int | None = Field(default=None, gt=0)
    """Length in passes over the training slices; for the part `slices` only."""
    batch_size: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    warmup_steps: int = Field(default=100, ge=0)
    decay: Literal["cosine", "constant"] = "cosine"
    """How the learning rate goes on after the warm-up: to almost zero, or as it is."""
    weight_decay: float = Field(default=0.01, ge=0)
    ema_decay: float = Field(default=0.998, ge=0, lt=1)
    """Moving average of the weights; these are what is validated and released."""
    clip_norm: float = Field(default=1.0, gt=0)
    bf16: bool = True
    """Run the network in bfloat16 where the device has it and autocast allows it; losses stay in
    float32."""
    checkpointing: bool = False
    """Keep the output of each level only and compute the rest again for the gradient: less
    memory, more time, the same weights."""
    seed: int = Field(default=1, ge=0)


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class LossConfig:
    """Parts of the findings loss."""

    focal_gamma: float = Field(default=0.0, ge=0)
    class_weights: tuple[float, float, float, float] | None = None
    dice_weight: float = Field(default=1.0, ge=0)


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class ScheduleConfig:
    """What happens beside the steps."""

    log_every: int = Field(default=20, gt=0)
    validate_every: int = Field(default=250, gt=0)
    checkpoint_every: int = Field(default=250, gt=0)
    checkpoint_minutes: float = Field(default=5.0, gt=0)
    prefetch: int = Field(default=4, gt=0)
    """Batches made ahead by a background worker."""
    tensorboard: bool = False
    best_by: str | None = None
    """Validation score by which the best weights are kept beside the last; the lowest where its
    name ends in `loss`, else the highest. None: the last weights are the result."""


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Recipe:
    """One training run of one part of the network."""

    name: str
    part: Literal["anatomy", "nuclei", "findings", "slices"]
    network: UNetSpec
    optimisation: OptimisationConfig
    train_heads: tuple[int, ...] = tuple(range(1, 13))
    validation_heads: tuple[int, ...] = (13, 14)
    """Heads are split, not images: what validates has never trained."""
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig)
    loss: LossConfig = Field(default_factory=LossConfig)
    anatomy: AnatomySampling = Field(default_factory=AnatomySampling)
    nuclei: NucleiSampling = Field(default_factory=NucleiSampling)
    findings: PatchSampling = Field(default_factory=PatchSampling)
    slices: SliceSampling = Field(default_factory=SliceSampling)
    fresh: FreshConfig = Field(default_factory=FreshConfig)
    """How cases are simulated while training, where the data or a mix is a folder of anatomies."""


_ADAPTER: TypeAdapter[Recipe] = TypeAdapter(Recipe)


def recipe_names() -> tuple[str, ...]:
    """Names of the recipes that come with the package."""
    folder = files("deepmir.training").joinpath("recipes")
    return tuple(sorted(p.name[:-5] for p in folder.iterdir() if p.name.endswith(".toml")))


def read_recipe(name_or_path: str | Path) -> Recipe:
    """Read a recipe by its name in the package or by the path of a TOML file.

    Raises
    ------
    ConfigError
        If there is none, it is not TOML, has an unknown key or a value out of range, or the
        same head trains and validates.
    """
    if str(name_or_path) in recipe_names():
        source = files("deepmir.training").joinpath("recipes", f"{name_or_path}.toml")
        return parse_recipe(source.read_text(encoding="utf-8"), origin=str(name_or_path))
    path = Path(name_or_path)
    if not path.is_file():
        begin_so = [name for name in recipe_names() if name.startswith(f"{name_or_path}-")]
        meant = f" (is {' or '.join(begin_so)} meant?)" if begin_so else ""
        raise ConfigError(
            f"there is no recipe {name_or_path}{meant}; give a TOML file or one of "
            f"{', '.join(recipe_names())}"
        )
    return parse_recipe(path.read_text(encoding="utf-8"), origin=str(path))


def parse_recipe(text: str, *, origin: str) -> Recipe:
    """Check the text of a recipe; `origin` names it in messages.

    Raises
    ------
    ConfigError
        As :func:`read_recipe`.
    """
    try:
        recipe = _ADAPTER.validate_python(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"recipe {origin} is not TOML: {error}") from error
    except ValidationError as error:
        raise ConfigError(f"recipe {origin}: {_first_complaint(error)}") from error
    for complaint in _complaints(recipe):
        raise ConfigError(f"recipe {origin}: {complaint}")
    return recipe


def _complaints(recipe: Recipe) -> Iterator[str]:
    """Say what does not fit together."""
    both = set(recipe.train_heads) & set(recipe.validation_heads)
    if both:
        yield f"heads {sorted(both)} both train and validate"
    optimisation = recipe.optimisation
    if (optimisation.steps is None) == (optimisation.epochs is None):
        yield "wanted either optimisation.steps or optimisation.epochs"
    if recipe.part != "slices" and optimisation.epochs is not None:
        yield f"the {recipe.part} part draws at random and has no epochs; set optimisation.steps"
    if recipe.fresh.first_cases > recipe.fresh.cases:
        yield (
            f"fresh.first_cases is {recipe.fresh.first_cases}, more than fresh.cases "
            f"({recipe.fresh.cases})"
        )
    if recipe.part == "slices":
        yield from _slices_complaints(recipe)


def _slices_complaints(recipe: Recipe) -> Iterator[str]:
    network, slices = recipe.network, recipe.slices
    if network.dimensions != 2:
        yield "the slices part works on slices: set network.dimensions = 2"
    if network.in_channels != len(slices.inputs):
        yield f"network.in_channels is {network.in_channels} for the inputs {slices.inputs}"
    if network.out_channels != slices.n_outputs:
        yield (
            f"network.out_channels is {network.out_channels}, wanted {slices.n_outputs} for "
            f"{slices.findings}: one for one finding, else the background's too"
        )
    if network.supervised_levels:
        yield "the slices part has one output: set network.supervised_levels = 0"
    if any(slices.size % step for step in network.multiple):
        yield f"slices.size is {slices.size}, wanted a multiple of {network.multiple[0]}"


def with_slices(recipe: Recipe, *, inputs: tuple[str, ...], findings: tuple[str, ...]) -> Recipe:
    """Return a recipe of the slices part for other inputs and findings, its network adapted.

    Raises
    ------
    ConfigError
        If the recipe is of another part, or a name is unknown.
    """
    if recipe.part != "slices":
        raise ConfigError(f"recipe {recipe.name} is of the {recipe.part} part, wanted slices")
    table = recipe_as_dict(recipe)
    table["slices"] |= {"inputs": inputs, "findings": findings}
    n_outputs = 1 if len(findings) == 1 else len(findings) + 1
    table["network"] |= {"in_channels": len(inputs), "out_channels": n_outputs}
    return recipe_from_json(json.dumps(table))


def with_seed(recipe: Recipe, seed: int) -> Recipe:
    """Return the same recipe with another seed."""
    return replace(recipe, optimisation=replace(recipe.optimisation, seed=seed))


def resolve_epochs(recipe: Recipe, steps_per_epoch: int) -> Recipe:
    """Turn epochs into steps; validation and checkpoint then come once an epoch."""
    epochs = recipe.optimisation.epochs
    if epochs is None:
        return recipe
    optimisation = replace(recipe.optimisation, steps=epochs * steps_per_epoch)
    schedule = replace(
        recipe.schedule, validate_every=steps_per_epoch, checkpoint_every=steps_per_epoch
    )
    return replace(recipe, optimisation=optimisation, schedule=schedule)


def recipe_as_json(recipe: Recipe) -> str:
    """Return the resolved recipe as JSON text, for checkpoints and the model card."""
    return _ADAPTER.dump_json(recipe).decode()


def recipe_from_json(text: str) -> Recipe:
    """Recipe stored in a checkpoint.

    Raises
    ------
    ConfigError
        If the text is not a recipe of this version.
    """
    try:
        return _ADAPTER.validate_json(text)
    except ValidationError as error:
        raise ConfigError(f"stored recipe: {_first_complaint(error)}") from error


def recipe_as_dict(recipe: Recipe) -> dict[str, Any]:
    """Return the resolved recipe as plain values."""
    return cast(dict[str, Any], _ADAPTER.dump_python(recipe, mode="json"))


def _first_complaint(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "unexpected_keyword_argument":
        return f"unknown setting {where}"
    return f"setting {where} = {first.get('input')!r}: {first['msg']}"
