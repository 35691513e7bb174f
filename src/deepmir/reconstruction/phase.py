"""Phase as scanners store it, brought to radians; what cannot be a wrapped phase is refused."""

from collections.abc import Sequence

import numpy as np

from deepmir.errors import InputError
from deepmir.io.raw import PhaseUnit
from deepmir.volume import FloatMap

_SCALES: dict[PhaseUnit, tuple[float, float]] = {
    "rad": (-np.pi, np.pi),
    "mrad": (-1000 * np.pi, 1000 * np.pi),  # Philips, and GE's stored phase
    "0-4095": (0.0, 4096.0),  # Siemens
    "±2048": (-2048.0, 2048.0),
    "±4096": (-4096.0, 4096.0),  # Siemens after conversion
}
"""Where −π and π lie in each way of storing phase."""
_ZERO_TO_TURN: dict[PhaseUnit, float] = {"rad": 2 * np.pi, "mrad": 2000 * np.pi}
"""Scales that also occur from 0 to a whole turn."""
_FILLED = 0.9  # share of a scale that wrapped phase must fill: noise and the brain's edge do
_BEYOND = 1.002


def phase_to_rad(
    phases: Sequence[FloatMap], *, unit: PhaseUnit | None, name: str
) -> tuple[list[FloatMap], PhaseUnit]:
    """Bring the phases of all echoes to radians, and say which unit they had.

    Parameters
    ----------
    phases : sequence of (I, J, K) arrays
    unit : PhaseUnit or None
        None: told from the range of the values. ``full-range``: their least and greatest value
        are −π and π, whatever they are.
    name : str
        What to call them in messages.

    Raises
    ------
    InputError
        If the phase of an echo is constant, is unwrapped already, or its unit cannot be told.
    """
    ends = [
        _checked_ends(phase, f"echo {number} of {len(phases)} of the phase {name}")
        for number, phase in enumerate(phases, start=1)
    ]
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    found = unit or _unit_of(low, high, phases)
    if found is None:
        raise InputError(_unclear(low, high, name))
    start, end = _ends(found, low, high)
    if low < start - 0.01 * (end - start) or high > end + 0.01 * (end - start):
        raise InputError(
            f"the phase {name} spans {low:g} to {high:g}, more than one turn in {found} "
            f"({start:g} to {end:g}); it is unwrapped already or in another unit: pass the phase "
            "as the scanner stored it"
        )
    scale = np.float32(2 * np.pi / (end - start))
    return [(phase - np.float32((start + end) / 2)) * scale for phase in phases], found


def _checked_ends(phase: FloatMap, name: str) -> tuple[float, float]:
    """Least and greatest value; one value alone, or on a ground of another, is refused."""
    low, high = float(phase.min()), float(phase.max())
    if ((phase == low) | (phase == high)).all():
        found = f"{low:g}" if low == high else f"{low:g} or {high:g}"
        raise InputError(f"{name} is {found} everywhere; wanted a phase image: export it again")
    return low, high


def _unit_of(low: float, high: float, phases: Sequence[FloatMap]) -> PhaseUnit | None:
    """Find the unit whose whole scale the values fill; None if there is none."""
    for unit in _SCALES:
        start, end = _ends(unit, low, high)
        if unit != "rad" and not _are_whole(phases[0]) and unit != "mrad":
            continue
        fits = low >= start * _BEYOND - 1e-3 and high <= end * _BEYOND + 1e-3
        if fits and high - low >= _FILLED * (end - start):
            return unit
    return None


def _ends(unit: PhaseUnit, low: float, high: float) -> tuple[float, float]:
    if unit == "full-range":
        return low, high
    turn = _ZERO_TO_TURN.get(unit)
    if turn is not None and low >= 0 and high > 0.55 * turn:
        return 0.0, turn
    return _SCALES[unit]


def _are_whole(phase: FloatMap) -> bool:
    sample = phase.ravel()[:: max(phase.size // 10000, 1)]
    return bool((sample == np.round(sample)).all())


def _unclear(low: float, high: float, name: str) -> str:
    if high - low > 2.1 * np.pi and max(abs(low), abs(high)) < 1000:
        return (
            f"the phase {name} spans {low:.4g} to {high:.4g}, more than one turn (6.283) and no "
            "known integer scale; it looks unwrapped already: pass the phase as the scanner "
            "stored it"
        )
    return (
        f"the unit of the phase {name} cannot be told: it spans {low:.4g} to {high:.4g}, and "
        "wrapped phase fills ±3.1416 rad, ±3142 (mrad), 0 to 4095, ±2048 or ±4096; say which by "
        "--phase-unit (full-range: its least and greatest value are -π and π), and do not pass "
        "phase that was filtered or unwrapped"
    )
