"""What is compared: recipes and inputs, and the declared sizes of the study."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from deepmir.errors import ConfigError
from deepmir.labels import Finding
from deepmir.study.paper import INPUTS, Kind
from deepmir.training.recipes import Recipe, read_recipe, with_slices
from deepmir.volume import CHANNELS, Present

FINDINGS: tuple[Finding, ...] = (Finding.CMB, Finding.IRON)
"""What the paper looks for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySize:
    """One declared version of the study; the page says which one it shows."""

    name: str
    kinds: tuple[Kind, ...]
    inputs: tuple[str, ...]
    n_folds: int | None  # None: leave one head out
    epochs: int | None = None  # None: the recipe's
    slices_per_epoch: int | None = None  # None: all
    release_steps: int | None = None  # None: the recipe's

    @property
    def text(self) -> str:
        """One sentence that declares it."""
        folds = "leave one head out" if self.n_folds is None else f"{self.n_folds} folds by head"
        epochs = "the recipe's epochs" if self.epochs is None else f"{self.epochs} epochs"
        slices = "all slices" if self.slices_per_epoch is None else (
            f"{self.slices_per_epoch} slices an epoch, drawn anew"
        )  # fmt: skip
        steps = "" if self.release_steps is None else f"; release recipe {self.release_steps} steps"
        return (
            f"version {self.name}: {', '.join(self.kinds)}; {', '.join(self.inputs)}; {folds}; "
            f"{epochs} of {slices}{steps}"
        )


SIZES: dict[str, StudySize] = {
    "full": StudySize(
        name="full", kinds=("single", "multi", "release"), inputs=tuple(INPUTS), n_folds=None
    ),
    "small": StudySize(
        name="small",
        kinds=("multi", "release"),
        inputs=("SWI", "SWI+QSM"),
        n_folds=4,
        epochs=4,
        slices_per_epoch=320,
        release_steps=800,
    ),
}
"""`full` needs a GPU; `small` is for a CPU."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One cross-validation of the study."""

    kind: Kind
    recipe: Recipe
    findings: tuple[Finding, ...]
    inputs: tuple[str, ...]  # names of the combinations that it is tested with

    @property
    def name(self) -> str:
        """Name of its folder."""
        if self.kind == "release":
            return "release"
        finding = f"-{self.findings[0].name}" if self.kind == "single" else ""
        return f"{self.kind}{finding}-{self.inputs[0]}"


def study_arms(size: StudySize) -> tuple[Arm, ...]:
    """All arms of a size; the release recipe is one arm, tested with every combination.

    Raises
    ------
    ConfigError
        If a combination of inputs is unknown.
    """
    unknown = set(size.inputs) - INPUTS.keys()
    if unknown:
        raise ConfigError(f"unknown inputs {sorted(unknown)}; known are {', '.join(INPUTS)}")
    arms: list[Arm] = []
    for inputs in size.inputs:
        if "single" in size.kinds:
            arms += [_paper_arm(size, inputs, (finding,)) for finding in FINDINGS]
        if "multi" in size.kinds:
            arms.append(_paper_arm(size, inputs, FINDINGS))
    if "release" in size.kinds:
        arms.append(Arm("release", _release_recipe(size), FINDINGS, size.inputs))
    return tuple(arms)


def shown_contrasts(inputs: str) -> Present:
    """Which of T2w, swi and Chimap a combination has.

    Examples
    --------
    >>> shown_contrasts("SWI+QSM")
    (False, True, True)
    """
    t2w, swi, chimap = (str(kind) in INPUTS[inputs] for kind in CHANNELS)
    return t2w, swi, chimap


def _paper_arm(size: StudySize, inputs: str, findings: Sequence[Finding]) -> Arm:
    kind: Kind = "single" if len(findings) == 1 else "multi"
    recipe = with_slices(
        read_recipe(f"paper-{kind}"),
        inputs=INPUTS[inputs],
        findings=tuple(finding.name for finding in findings),
    )
    optimisation, slices = recipe.optimisation, recipe.slices
    if size.epochs is not None:
        optimisation = replace(optimisation, epochs=size.epochs)
    slices = replace(slices, slices_per_epoch=size.slices_per_epoch)
    recipe = replace(recipe, optimisation=optimisation, slices=slices)
    return Arm(kind, recipe, tuple(findings), (inputs,))


def _release_recipe(size: StudySize) -> Recipe:
    recipe = read_recipe("release-findings")
    if size.release_steps is None:
        return recipe
    return replace(recipe, optimisation=replace(recipe.optimisation, steps=size.release_steps))
