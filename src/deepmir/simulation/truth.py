"""Truth kept twice: the deposit, and its extent on the image as a rater would draw it.

A rater sees a finding where SWI falls by more than 25 % because of it, or where the
reconstructed |χ| rises by more than 3 times the local noise and 0.05 ppm. What neither shows is
no label: its place is left out of training and scoring (`IGNORE`). Where the signal is lost in any
case, as above the sinuses, SWI shows nothing. Rings of phase that cut an extent in pieces do not
make one finding several: the deposit itself joins them.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from scipy import ndimage

from deepmir.simulation.lesions import FINDING_OF_KIND, Deposit, DepositEffect, Kind
from deepmir.volume import BoolMap, FloatMap, IntMap

IGNORE = 255


class Mimic(IntEnum):
    """What looks like a finding and is none: numbers of the map of mimics."""

    VEIN = 1
    MIXED = 2  # cavernoma-like lesion
    SPACE = 3  # perivascular, filled with CSF
    FRINGE = 4  # of badly combined phase
    DROPOUT = 5  # signal lost, as near air


DEPOSIT_NUMBERS = {kind: number for number, kind in enumerate(Kind, start=1)}

SWI_FALL = 0.25
CHI_RISE_PPM = 0.05
NOISE_FACTOR = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Visibility:
    """How conspicuous one deposit came out."""

    seen_on_swi: bool
    seen_on_qsm: bool
    swi_fall: float  # greatest share of signal lost
    peak_chi_ppm: float  # greatest change of the map, with its sign
    extent_mm3: float
    voxel: tuple[int, int, int]  # of the scan, in the middle of the deposit

    @property
    def seen(self) -> bool:
        """Whether a rater could see it at all."""
        return self.seen_on_swi or self.seen_on_qsm


@dataclass(frozen=True, slots=True, eq=False)
class ScanPair:
    """SWI and Chimap of one person with and without the deposits, same noise."""

    swi: FloatMap
    swi_without: FloatMap
    chi_ppm: FloatMap
    chi_without_ppm: FloatMap
    lost: BoolMap  # no signal to speak of, without deposits too


def deposit_map(
    deposits: list[Deposit], effects: tuple[DepositEffect | None, ...], shape: tuple[int, ...]
) -> IntMap:
    """Deposits (I, J, K) as they are and not as they look: numbers of `DEPOSIT_NUMBERS`."""
    numbers = np.zeros(shape, dtype=np.uint8)
    for deposit, effect in zip(deposits, effects, strict=True):
        if effect is not None and effect.fraction.any():
            numbers[effect.block][_core(effect)] = DEPOSIT_NUMBERS[deposit.kind]
    return numbers


def draw_truth(
    deposits: list[Deposit],
    effects: tuple[DepositEffect | None, ...],
    scans: ScanPair,
    brain: BoolMap,
    *,
    voxel_volume_mm3: float,
) -> tuple[IntMap, BoolMap, list[Visibility | None]]:
    """Label map as a rater would draw it, places of mimics, and each deposit's visibility.

    Returns
    -------
    labels : (I, J, K) uint8 array
        Numbers of :class:`deepmir.labels.Finding`; `IGNORE` where a deposit cannot be seen.
    mimics : (I, J, K) bool array
        Extents of deposits that are no findings.
    visibility : list
        One per deposit, None where it lies off the grid.
    """
    labels = np.zeros(scans.swi.shape, dtype=np.uint8)
    mimics = np.zeros(scans.swi.shape, dtype=bool)
    owners = _owners(deposits, effects, scans.swi.shape)
    noise_ppm = _local_noise(scans.chi_without_ppm, brain)
    floor = 0.1 * float(np.median(scans.swi_without[brain]))
    seen: list[Visibility | None] = []
    for number, (deposit, effect) in enumerate(zip(deposits, effects, strict=True), start=1):
        if effect is None or not effect.fraction.any():
            seen.append(None)
            continue
        extent, visibility = _extent(
            effect, scans, owners[effect.block] == number, noise_ppm=noise_ppm, floor=floor,
            voxel_volume_mm3=voxel_volume_mm3,
        )  # fmt: skip
        finding = FINDING_OF_KIND[deposit.kind]
        if finding is None:
            mimics[effect.block] |= extent
        else:
            value = int(finding) if visibility.seen else IGNORE
            here = labels[effect.block]
            here[extent & ((here == 0) | (here == IGNORE))] = value
        seen.append(visibility)
    return labels, mimics, seen


def _extent(
    effect: DepositEffect,
    scans: ScanPair,
    own: BoolMap,
    *,
    noise_ppm: float,
    floor: float,
    voxel_volume_mm3: float,
) -> tuple[BoolMap, Visibility]:
    block = effect.block
    before, after = scans.swi_without[block], scans.swi[block]
    fall = np.where((before > floor) & ~scans.lost[block], 1 - after / np.maximum(before, 1e-9), 0)
    change = scans.chi_ppm[block] - scans.chi_without_ppm[block]
    core = _core(effect)
    on_swi = _in_one_piece(_joined(own & (fall > SWI_FALL), core), own & core)
    near = own & ndimage.binary_dilation(core, iterations=1)
    at = np.unravel_index(int(np.argmax(np.where(near, np.abs(change), -1))), change.shape)
    peak = float(change[at])
    seen_on_qsm = abs(peak) > max(CHI_RISE_PPM, NOISE_FACTOR * noise_ppm)
    on_qsm = _joined(own & (change * np.sign(peak) > 0.5 * abs(peak)), core)
    seen_on_swi = int(on_swi.sum()) >= 2
    extent = on_swi if seen_on_swi else on_qsm if seen_on_qsm else near
    return extent, Visibility(
        seen_on_swi=seen_on_swi,
        seen_on_qsm=seen_on_qsm,
        swi_fall=float(np.where(near, fall, 0).max()),
        peak_chi_ppm=peak,
        extent_mm3=float(extent.sum()) * voxel_volume_mm3,
        voxel=_middle(effect),
    )


def _core(effect: DepositEffect) -> BoolMap:
    """Voxels that a deposit fills by a twentieth, and the one that it fills most."""
    return np.asarray((effect.fraction > 0.05) | (effect.fraction == effect.fraction.max()))


def _middle(effect: DepositEffect) -> tuple[int, int, int]:
    """Voxel that holds most of a deposit's substance."""
    fullest = np.unravel_index(int(np.argmax(effect.fraction)), effect.fraction.shape)
    i, j, k = (part.start + int(at) for part, at in zip(effect.block, fullest, strict=True))
    return i, j, k


def _joined(candidate: BoolMap, core: BoolMap) -> BoolMap:
    """Components of `candidate` that touch the deposit (26-connected, one voxel of slack)."""
    structure = np.ones((3, 3, 3), dtype=bool)
    components, _ = ndimage.label(candidate, structure=structure)
    touching = np.unique(components[ndimage.binary_dilation(core, structure=structure)])
    return np.asarray(np.isin(components, touching[touching > 0]))


def _in_one_piece(extent: BoolMap, core: BoolMap) -> BoolMap:
    """Join what lies round a deposit by the deposit itself, if it is in pieces."""
    _, pieces = ndimage.label(extent, structure=np.ones((3, 3, 3), dtype=bool))
    return extent | core if pieces > 1 else extent


def _owners(
    deposits: list[Deposit],
    effects: tuple[DepositEffect | None, ...],
    shape: tuple[int, ...],
) -> IntMap:
    """Find the number (from 1) of the deposit to which each voxel is nearest, 0 off all blocks."""
    owners = np.zeros(shape, dtype=np.uint16)
    nearest = np.full(shape, np.inf, dtype=np.float32)
    for number, effect in enumerate(effects, start=1):
        if effect is None or not effect.fraction.any():
            continue
        size = max(deposits[number - 1].semi_axes_mm)
        distance = ndimage.distance_transform_edt(effect.fraction < 0.05).astype(np.float32)
        closer = distance / np.float32(size) < nearest[effect.block]
        owners[effect.block][closer] = number
        nearest[effect.block][closer] = (distance / np.float32(size))[closer]
    return owners


def _local_noise(chi_ppm: FloatMap, brain: BoolMap) -> float:
    """Robust standard deviation of neighbouring differences in plane, per voxel."""
    difference = np.diff(chi_ppm, axis=0)[brain[1:] & brain[:-1]]
    difference = difference[difference != 0]
    if difference.size == 0:
        return 0.0
    return float(1.4826 * np.median(np.abs(difference)) / np.sqrt(2))
