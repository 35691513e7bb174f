"""Rules of a hit, by name: ours, and those under which others have published.

A published number can only be compared under its own rule, and most rules are left unsaid. Each
rule here says everything: what joins voxels to a lesion, which pairs may match, how pairs are
chosen where several may, what precision counts, and what an undefined score becomes.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from deepmir.errors import ConfigError
from deepmir.lesions import Connectivity


class Criterion(StrEnum):
    """Which pairs of a predicted and a reference lesion may match."""

    OVERLAP = "any-overlap"  # they share a voxel
    IOU = "iou"  # intersection over union of at least the limit
    DISTANCE = "centroid-distance"  # centroids less than the limit apart, in mm
    VOXEL_DISTANCE = "centroid-distance-in-voxels"  # the same without regard to voxel size


class Assignment(StrEnum):
    """How pairs are chosen among those that may match."""

    ALL = "many-to-many"  # every pair counts
    OPTIMAL = "one-to-one"  # as many pairs as can be, and of those the best in sum
    BEST_SUM = "one-to-one-best-sum"  # the best in sum, even if there are fewer pairs
    GREEDY = "one-to-one-greedy"  # the best pair first, then the best of the rest
    NEAREST = "nearest-only"  # each prediction with its nearest reference; ties count twice


class Empties(StrEnum):
    """What becomes of a person's score where nothing can be divided."""

    UNDEFINED = "undefined"  # n/a, and left out of means; F1 is 0 with false positives only
    ONE_WHEN_BOTH = "one-when-both-empty"  # 1 where both are empty, 0 where one is
    ZERO = "zero"
    NO_REFERENCE_NO_F1 = "f1-undefined-without-reference"  # false positives there vanish


EMPTIES_TEXT = {
    Empties.UNDEFINED: "a ratio with nothing to divide by is n/a and left out of means",
    Empties.ONE_WHEN_BOTH: "a person without lesions on either side scores 1, on one side 0",
    Empties.ZERO: "a ratio with nothing to divide by is 0",
    Empties.NO_REFERENCE_NO_F1: "F1 is n/a without a reference lesion, false positives or not",
}
"""One sentence each, to stand below a table."""


class Average(StrEnum):
    """How the source of a rule makes one figure of many persons."""

    POOLED = "pooled"  # every lesion weighs the same
    MEAN = "mean-of-persons"
    MEAN_OF_CARRIERS = "mean-of-persons-with-the-finding"
    MEDIAN = "median-of-persons"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Everything that a count of hits depends on."""

    name: str
    criterion: Criterion
    assignment: Assignment
    connectivity: Connectivity
    limit: float | None = None
    """Of the criterion: mm, voxels, or intersection over union; None for any overlap."""
    min_voxels: int = 1
    """Lesions of fewer voxels are dropped on both sides before anything is matched."""
    max_diameter_mm: float | None = None
    """So are lesions whose sphere of equal volume is larger; None: no limit."""
    precision_counts_references: bool = False
    """Precision as hit references / (hit references + false predictions), as SHiVAi has it."""
    empties: Empties = Empties.UNDEFINED
    average: Average = Average.POOLED
    source: str = ""
    """Where the rule is written, and what of it is our reading."""

    def __post_init__(self) -> None:
        if self.connectivity not in (6, 18, 26):
            raise ConfigError(f"connectivity must be 6, 18 or 26, got {self.connectivity!r}")
        if (self.limit is None) != (self.criterion is Criterion.OVERLAP):
            wanted = "no limit" if self.criterion is Criterion.OVERLAP else "a limit"
            raise ConfigError(f"a rule by {self.criterion} needs {wanted}, got {self.limit!r}")
        if self.limit is not None and not self.limit > 0:
            raise ConfigError(f"the limit of a rule must be above 0, got {self.limit!r}")
        if self.criterion is Criterion.IOU and self.limit is not None and self.limit > 1:
            raise ConfigError(f"intersection over union is at most 1, got the limit {self.limit}")
        if self.min_voxels < 1:
            raise ConfigError(f"the least number of voxels is 1, got {self.min_voxels}")
        if self.max_diameter_mm is not None and not self.max_diameter_mm > 0:
            raise ConfigError(f"the largest diameter must be above 0, got {self.max_diameter_mm}")

    @property
    def needs_grid(self) -> bool:
        """Tell whether voxel sizes matter: then an affine must be given."""
        return self.criterion is Criterion.DISTANCE or self.max_diameter_mm is not None

    @property
    def text(self) -> str:
        """Return the rule in one line, as it stands beside every number.

        Examples
        --------
        >>> RULES["deepmir"].text
        'deepmir: any-overlap, 26-connectivity'
        >>> RULES["valdo"].text
        'valdo: centroid-distance < 5 mm, one-to-one, 26-connectivity'
        """
        named = "" if self.name == self.criterion else f"{self.name}: "
        parts = [f"{self.criterion}{_limit_text(self)}"]
        if self.assignment is not Assignment.ALL:
            parts.append(str(self.assignment))
        parts.append(f"{self.connectivity}-connectivity")
        if self.precision_counts_references:
            parts.append("precision by references")
        if self.min_voxels > 1:
            parts.append(f"from {self.min_voxels} voxels")
        if self.max_diameter_mm is not None:
            parts.append(f"up to {self.max_diameter_mm:g} mm")
        return named + ", ".join(parts)


def _limit_text(rule: Rule) -> str:
    return {
        Criterion.OVERLAP: "",
        Criterion.IOU: f" ≥ {rule.limit}",
        Criterion.DISTANCE: f" < {rule.limit:g} mm" if rule.limit else "",
        Criterion.VOXEL_DISTANCE: f" < {rule.limit:g}" if rule.limit else "",
    }[rule.criterion]


_DEEPMIR = Rule(
    name="deepmir",
    criterion=Criterion.OVERLAP,
    assignment=Assignment.ALL,
    connectivity=26,
    source=(
        "This project: one shared voxel is a hit; sensitivity counts references, precision counts "
        "predictions. How many predictions cover several references, and how many references are "
        "split, is shown beside, because this rule alone does not punish it."
    ),
)

RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        _DEEPMIR,
        replace(
            _DEEPMIR,
            name="paper",
            average=Average.MEAN_OF_CARRIERS,
            source=(
                "Rashid 2021, doi:10.1038/s41598-021-93427-x: 26-connectivity is in the authors' "
                "code, means over persons are in the tables; any overlap, and leaving out persons "
                "without the finding, are our reading."
            ),
        ),
        Rule(
            name="valdo",
            criterion=Criterion.DISTANCE,
            limit=5.0,
            assignment=Assignment.OPTIMAL,
            connectivity=26,
            average=Average.MEDIAN,
            source=(
                "Sudre 2024, doi:10.1016/j.media.2023.103029, centres of mass less than 5 mm "
                "apart, one to one; mended against its script: distances in mm, the best "
                "assignment instead of the nearest, false positives of persons without lesions "
                "kept. The script joins by 26 neighbours, the paper is quoted with 6: "
                "set the connectivity to compare."
            ),
        ),
        Rule(
            name="valdo-as-published",
            criterion=Criterion.VOXEL_DISTANCE,
            limit=0.1,
            assignment=Assignment.NEAREST,
            connectivity=26,
            empties=Empties.NO_REFERENCE_NO_F1,
            average=Average.MEDIAN,
            source=(
                "github.com/WhereIsValdo/valdo-eval-2021, evaluation_comparison/"
                "pairwise_measures.py, with its defects: distance in voxels whatever their size; "
                "a default limit of 0.1; a prediction only tries its nearest reference; ties "
                "count twice; F1 is undefined without a reference, so that false positives "
                "vanish. A limit of 5 is what the paper states in mm."
            ),
        ),
        Rule(
            name="microbleednet",
            criterion=Criterion.OVERLAP,
            assignment=Assignment.BEST_SUM,
            connectivity=26,
            empties=Empties.ZERO,
            source=(
                "Sundaresan 2023, doi:10.3389/fninf.2023.1204186; github.com/g-shanker/"
                "microbleed-detection, core/common/metrics.py: one to one, the largest sum of "
                "shared voxels; ratios are 0 where undefined; pooled. 26 neighbours are the "
                "default of the labelling that its code calls."
            ),
        ),
        Rule(
            name="shivai",
            criterion=Criterion.OVERLAP,
            assignment=Assignment.ALL,
            connectivity=18,
            precision_counts_references=True,
            empties=Empties.ONE_WHEN_BOTH,
            source=(
                "Tsuchida 2024, doi:10.1038/s41598-024-81870-5; github.com/pboutinaud/SHiVAi, "
                "shivautils/metrics.py, image_metrics without a cluster filter: connectivity=2 "
                "of skimage, which is 18 in 3-D. Pooled is our reading: the published F1 is the "
                "harmonic mean of the published sensitivity and precision."
            ),
        ),
        Rule(
            name="panoptica",
            criterion=Criterion.IOU,
            limit=0.5,
            assignment=Assignment.GREEDY,
            connectivity=26,
            average=Average.MEAN,
            source=(
                "Kofler 2023, doi:10.48550/arXiv.2312.02608; github.com/BrainLesion/panoptica 2.1, "
                "NaiveThresholdMatching with its defaults; 26 neighbours are the default of its "
                "labelling (cc3d). Its recognition quality (RQ) is this F1."
            ),
        ),
    )
}
"""The rules that have a name."""


def rule_named(name: str, *, connectivity: Connectivity | None = None) -> Rule:
    """Return a rule by its name, or the bare criterion ``any-overlap``.

    Parameters
    ----------
    name : str
        A key of :data:`RULES`, or ``any-overlap``, which is `deepmir`'s rule without its name.
    connectivity : {6, 18, 26}, optional
        In place of the rule's own; must be given for ``any-overlap``.

    Raises
    ------
    ConfigError
        If there is no such rule, or the connectivity is missing or unknown.

    Examples
    --------
    >>> rule_named("shivai").connectivity, rule_named("shivai", connectivity=6).connectivity
    (18, 6)
    """
    if name == Criterion.OVERLAP:
        if connectivity is None:
            raise ConfigError("the rule any-overlap needs a connectivity: 6, 18 or 26")
        return replace(_DEEPMIR, name=name, connectivity=connectivity)
    if name not in RULES:
        raise ConfigError(
            f"matching rule must be any-overlap or one of {', '.join(RULES)}, got {name!r}"
        )
    rule = RULES[name]
    return rule if connectivity is None else replace(rule, connectivity=connectivity)
