"""One labelled person: scene, scan, SWI, Chimap and the truth, from one seed."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata

import numpy as np
from pydantic import TypeAdapter, ValidationError

from deepmir.errors import ConfigError, GeometryError
from deepmir.reconstruction.run import (
    ChimapSettings,
    reconstruct_chimap,
    reconstruct_swi,
    reliable_mask,
)
from deepmir.simulation.acquire import Acquisition, acquire, mask_in_use
from deepmir.simulation.anatomy import Anatomy
from deepmir.simulation.lesions import (
    Counts,
    Deposit,
    demonstration_counts,
    realistic_counts,
    training_counts,
)
from deepmir.simulation.protocol import PROTOCOL_NAMES, Protocol, protocol_by_name
from deepmir.simulation.scene import Variation, build_scene, sample_variation
from deepmir.simulation.truth import Mimic, ScanPair, Visibility, draw_truth
from deepmir.simulation.vessels import VesselParameters
from deepmir.volume import BoolMap, FloatMap, IntMap

CountsFunction = Callable[[np.random.Generator], Counts]

_VENTRICLES = (4, 43)
_HOLDS = 0.15  # share of a voxel that a vein or a space must fill to be marked
_COUNTS: dict[str, CountsFunction] = {
    function.__name__: function
    for function in (realistic_counts, demonstration_counts, training_counts)
}


@dataclass(frozen=True, slots=True, eq=False)
class SimulatedPerson:
    """Scans and truth of one simulated person on the grid of the gradient echo."""

    acquisition: Acquisition
    swi: FloatMap
    chi_ppm: FloatMap
    chi_mask: BoolMap  # where the Chimap holds
    findings: IntMap  # uint8, numbers of deepmir.labels.Finding, truth.IGNORE where unseen
    mimics: IntMap  # uint8, numbers of truth.Mimic
    deposits: tuple[Deposit, ...]
    visibility: tuple[Visibility | None, ...]
    protocol: Protocol
    variation: Variation
    anatomy: str
    seed: int
    counts: str  # name of the function that drew how many deposits
    whole_head: bool
    age_years: float | None  # that was asked for
    vessels: VesselParameters


def simulate_person(
    anatomy: Anatomy,
    *,
    seed: int,
    protocol: str | Protocol = "random",
    counts: CountsFunction = realistic_counts,
    whole_head: bool = False,
    age_years: float | None = None,
) -> SimulatedPerson:
    """Simulate one person: the same seed gives the same bytes.

    Parameters
    ----------
    anatomy : Anatomy
        Label map of a real or built-in head.
    protocol : str or Protocol
        ``random``, the name of a fixed one, or one of your own.
    counts : function of a random generator
        How many deposits of each kind.
    whole_head : bool
        Keep skull and scalp in the field of view, and give T2w a grid and a pose of its own.
    age_years : float, optional
        Decides about ventricles, white-matter lesions, perivascular spaces and the iron of the
        nuclei; by default it is drawn, 45 to 90.

    Raises
    ------
    ConfigError
        If the protocol is unknown.
    GeometryError
        If the brain is too small to make a Chimap of it.
    """
    rng = np.random.default_rng(seed)
    drawn = protocol_by_name(protocol, rng) if isinstance(protocol, str) else protocol
    variation = sample_variation(rng, age_years=age_years, signs_of_age=drawn.detailed_people)
    scene = build_scene(anatomy, drawn, variation, counts(rng), rng, whole_head=whole_head)
    scan = acquire(scene, drawn, rng, separate_t2w=whole_head)
    mask = mask_in_use(scan.brain, drawn.spacing_mm, drawn)
    swi, swi_without = (
        reconstruct_swi(echoes, drawn.swi) * (mask if drawn.stripped else np.float32(1))
        for echoes in (scan.echoes, scan.echoes_without_deposits)
    )
    chi, chi_without, chi_mask = _chimaps(scan, mask, drawn.chimap)
    pair = ScanPair(
        swi=swi,
        swi_without=swi_without,
        chi_ppm=chi,
        chi_without_ppm=chi_without,
        lost=scan.brain & ~reliable_mask(scan.echoes_without_deposits, scan.brain),
    )
    findings, mixed, seen = draw_truth(
        scene.deposits,
        scan.effects,
        pair,
        scan.brain,
        voxel_volume_mm3=float(np.prod(drawn.spacing_mm)),
    )
    return SimulatedPerson(
        acquisition=scan,
        swi=swi,
        chi_ppm=chi,
        chi_mask=chi_mask,
        findings=findings,
        mimics=_mimics(scan, mixed, pair.lost),
        deposits=tuple(scene.deposits),
        visibility=tuple(seen),
        protocol=drawn,
        variation=variation,
        anatomy=anatomy.name,
        seed=seed,
        counts=getattr(counts, "__name__", type(counts).__name__),
        whole_head=whole_head,
        age_years=age_years,
        vessels=scene.vessels,
    )


def _mimics(scan: Acquisition, mixed: BoolMap, lost: BoolMap) -> IntMap:
    """Map of what is no finding; where two meet, the one that is rarer."""
    mimics = np.zeros(mixed.shape, dtype=np.uint8)
    for kind, where in (
        (Mimic.DROPOUT, lost),
        (Mimic.SPACE, scan.space_fraction > _HOLDS),
        (Mimic.VEIN, scan.vein_fraction > _HOLDS),
        (Mimic.FRINGE, scan.fringes),
        (Mimic.MIXED, mixed),
    ):
        mimics[where] = kind
    return mimics


def replay_person(anatomy: Anatomy, parameters: str) -> SimulatedPerson:
    """Simulate a person again from what `parameters_text` wrote: the same bytes.

    Raises
    ------
    ConfigError
        If the text is no such description, or the person cannot be replayed from it: another
        version or anatomy, or counts drawn by a function that the package does not have.
    """
    try:
        read = TypeAdapter(_Replay).validate_json(parameters)
    except ValidationError as error:
        raise ConfigError(
            f"this is no description of a simulated person: {error.errors()[0]['msg']}; "
            "wanted the text that is written beside one (..._desc-simulation_parameters.json)"
        ) from error
    if read.deepmir != metadata.version("deepmir"):
        raise ConfigError(
            f"this person was simulated by deepmir {read.deepmir}; this is "
            f"{metadata.version('deepmir')}, which would draw another one from the same seed: "
            f"install deepmir=={read.deepmir}"
        )
    if read.anatomy != anatomy.name:
        raise ConfigError(
            f"this person was made of anatomy {read.anatomy!r}, not of {anatomy.name!r}; pass that"
        )
    if read.counts not in _COUNTS:
        raise ConfigError(
            f"counts were drawn by {read.counts!r}, which is not one of {', '.join(_COUNTS)}; "
            "call simulate_person with that function instead"
        )
    name = read.protocol.name
    return simulate_person(
        anatomy,
        seed=read.seed,
        protocol=name if name in PROTOCOL_NAMES else read.protocol,
        counts=_COUNTS[read.counts],
        whole_head=read.whole_head,
        age_years=read.age_years,
    )


@dataclass(frozen=True, slots=True)
class _Replay:
    """What of a description decides about a person; the rest of it follows from the seed."""

    deepmir: str
    anatomy: str
    seed: int
    counts: str
    whole_head: bool
    age_years: float | None
    protocol: Protocol


def parameters_text(person: SimulatedPerson) -> str:
    """Describe a person as JSON text: enough to replay it, and the main values that were drawn."""
    scan = person.acquisition
    described = {
        "deepmir": metadata.version("deepmir"),
        "anatomy": person.anatomy,
        "seed": person.seed,
        "counts": person.counts,
        "whole_head": person.whole_head,
        "age_years": person.age_years,
        "spacing_mm": person.protocol.spacing_mm,
        "protocol": asdict(person.protocol),
        "variation": asdict(person.variation),
        "vessels": asdict(person.vessels),
        "venous_blood": asdict(scan.blood),
        "chi_of_labels_ppm": {
            int(label): round(float(scan.tissue.chi_ppm[label]), 5)
            for label in np.unique(scan.labels)
            if label < len(scan.tissue.chi_ppm)
        },
        "deposits": [
            {**asdict(deposit), "visibility": None if seen is None else asdict(seen)}
            for deposit, seen in zip(person.deposits, person.visibility, strict=True)
        ],
    }
    return json.dumps(described, indent=1, sort_keys=True) + "\n"


def _chimaps(
    scan: Acquisition, brain: BoolMap, settings: ChimapSettings
) -> tuple[FloatMap, FloatMap, BoolMap]:
    csf = np.isin(scan.labels, _VENTRICLES)
    chi, mask = reconstruct_chimap(scan.echoes, brain, settings, csf=csf)
    without, _ = reconstruct_chimap(scan.echoes_without_deposits, brain, settings, csf=csf)
    if not mask.any():
        raise GeometryError("the brain of this label map is too small to make a Chimap of it")
    return chi, without, mask
