"""Counts of one person; None is n/a: what could not be told is never a zero."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from deepmir.labels import Compartment, Finding
from deepmir.lesions.measure import Certainty, Lesion, SizeClass
from deepmir.volume import Present


@dataclass(frozen=True, slots=True)
class Summary:
    """How many findings one person has; None where the scans cannot tell."""

    cmb: int | None
    cmb_definite: int | None
    cmb_possible: int | None
    cmb_lobar: int | None
    cmb_deep: int | None
    cmb_infratentorial: int | None
    cmb_unlocated: int | None
    cmb_below_5mm: int | None
    cmb_5_to_10mm: int | None
    cmb_exceeding_10mm: int | None
    """Among `cmb`; by definition no microbleeds, to be looked at."""
    iron: int | None
    """In the basal ganglia."""
    iron_elsewhere: int | None
    """Listed, not counted in `iron`."""
    calcification: int | None
    cmb_volume_mm3: float | None
    iron_volume_mm3: float | None
    calcification_volume_mm3: float | None


def tellable_findings(present: Present) -> frozenset[Finding]:
    """Tell which findings the scans at hand can show.

    T2w alone shows none; without a susceptibility map a calcification looks like a microbleed.

    Parameters
    ----------
    present : tuple of bool
        Whether there are T2w, SWI and Chimap (`Scans.present`).

    Examples
    --------
    >>> sorted(finding.name for finding in tellable_findings((True, True, False)))
    ['CMB', 'IRON']
    """
    _, swi, chimap = present
    if chimap:
        return frozenset(Finding)
    return frozenset({Finding.CMB, Finding.IRON}) if swi else frozenset()


def summarise(lesions: Sequence[Lesion], *, present: Present) -> Summary:
    """Count the lesions of one person.

    Parameters
    ----------
    lesions : sequence of Lesion
        All of the person's lesions.
    present : tuple of bool
        Whether there are T2w, SWI and Chimap (`Scans.present`).
    """
    told = tellable_findings(present)
    cmb = [lesion for lesion in lesions if lesion.finding is Finding.CMB]
    iron = [lesion for lesion in lesions if lesion.finding is Finding.IRON]
    calcification = [lesion for lesion in lesions if lesion.finding is Finding.CALCIFICATION]
    counted = [lesion for lesion in iron if lesion.counted]
    cmb_told, iron_told = Finding.CMB in told, Finding.IRON in told
    calcification_told = Finding.CALCIFICATION in told
    certainty = [lesion.certainty for lesion in cmb]
    place = [lesion.compartment for lesion in cmb]
    size = [lesion.size_class for lesion in cmb]
    return Summary(
        cmb=_if(cmb_told, len(cmb)),
        cmb_definite=_if(cmb_told, certainty.count(Certainty.DEFINITE)),
        cmb_possible=_if(cmb_told, certainty.count(Certainty.POSSIBLE)),
        cmb_lobar=_if(cmb_told, place.count(Compartment.LOBAR)),
        cmb_deep=_if(cmb_told, place.count(Compartment.DEEP)),
        cmb_infratentorial=_if(cmb_told, place.count(Compartment.INFRATENTORIAL)),
        cmb_unlocated=_if(cmb_told, place.count(None)),
        cmb_below_5mm=_if(cmb_told, size.count(SizeClass.SMALL)),
        cmb_5_to_10mm=_if(cmb_told, size.count(SizeClass.LARGE)),
        cmb_exceeding_10mm=_if(cmb_told, size.count(SizeClass.EXCEEDING)),
        iron=_if(iron_told, len(counted)),
        iron_elsewhere=_if(iron_told, len(iron) - len(counted)),
        calcification=_if(calcification_told, len(calcification)),
        cmb_volume_mm3=_volume(cmb, told=cmb_told),
        iron_volume_mm3=_volume(counted, told=iron_told),
        calcification_volume_mm3=_volume(calcification, told=calcification_told),
    )


def _if(told: bool, count: int) -> int | None:  # noqa: FBT001 - reads as "if told, the count"
    return count if told else None


def _volume(lesions: Collection[Lesion], *, told: bool) -> float | None:
    return float(sum(lesion.volume_mm3 for lesion in lesions)) if told else None
