"""The whole reconstruction: complex echoes in, SWI and Chimap out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import ndimage

from deepmir.errors import ConfigError
from deepmir.physics.dipole import field_ppm
from deepmir.physics.signal import phase_per_ppm_rad
from deepmir.reconstruction.background import (
    BackgroundMethod,
    remove_background_pdf,
    remove_background_vsharp,
)
from deepmir.reconstruction.inversion import (
    Inversion,
    InversionMethod,
    Morphology,
    invert,
    invert_medi_in_mask,
)
from deepmir.reconstruction.swi import (
    ComplexMap,
    homodyne_phase,
    susceptibility_weighted,
    unwrapped_phase,
)
from deepmir.reconstruction.unwrap import (
    FieldMap,
    UnwrapMethod,
    combine_echoes,
    laplacian_field,
    largest_tear,
    path_field,
)
from deepmir.volume import BoolMap, FloatMap

_CONVOLUTION_MARGIN_MM = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChimapSettings:
    """How a susceptibility map is made."""

    method: InversionMethod = "closed-form"
    strength: float = 0.003  # TKD: threshold; closed form, MEDI: weight of the gradient
    largest_sphere_mm: float = 10.0
    erosion_mm: float = 2.0  # rim of the brain that is lost
    reference: Literal["brain", "csf"] = "brain"  # what has χ = 0
    unwrap: UnwrapMethod = "laplacian"
    background: BackgroundMethod = "vsharp"
    vsharp_threshold: float = 0.1  # truncation of its deconvolution
    pdf_tolerance: float = 0.03  # share of the residual at which its iteration stops
    tolerance: float = 0.01  # MEDI stops when an iteration changes χ by less than this share
    refinements: int = 0  # how often V-SHARP is run again on what χ does not explain yet


@dataclass(frozen=True, slots=True, eq=False)
class LocalField:
    """Field of the sources inside the brain, and where it holds."""

    field_ppm: FloatMap  # (I, J, K), 0 outside the mask
    mask: BoolMap
    total: FieldMap  # what it was taken from
    brain: BoolMap  # (I, J, K) where the background was taken off; the mask is its inner part

    def negated(self) -> "LocalField":
        """Return the field as it is when phase has the other sign."""
        total = replace(self.total, field_ppm=-self.total.field_ppm)
        return replace(self, field_ppm=-self.field_ppm, total=total)


@dataclass(frozen=True, slots=True, kw_only=True)
class SwiSettings:
    """How a susceptibility-weighted image is made."""

    echo: int = 0  # index of the echo
    phase: Literal["homodyne", "unwrapped"] = "unwrapped"
    filter_size: float = 64.0  # homodyne: k-space samples of 240 mm
    power: int = 4


@dataclass(frozen=True, slots=True, eq=False)
class GradientEchoes:
    """A multi-echo gradient-echo acquisition on one grid."""

    signals: tuple[ComplexMap, ...]  # (I, J, K) each; positive field shift = positive phase
    echo_times_s: tuple[float, ...]
    b0_t: float
    spacing_mm: tuple[float, float, float]
    b0_direction: tuple[float, float, float]  # along the voxel axes


def reconstruct_swi(echoes: GradientEchoes, settings: SwiSettings) -> FloatMap:
    """Susceptibility-weighted image (I, J, K) of one echo."""
    signal = echoes.signals[settings.echo]
    if settings.phase == "homodyne":
        phase = homodyne_phase(signal, echoes.spacing_mm, filter_size=settings.filter_size)
    else:
        # A Gaussian of this width passes about what the k-space window of that size passes.
        width_mm = 240.0 / settings.filter_size
        phase = unwrapped_phase(signal, echoes.spacing_mm, width_mm=width_mm)
    magnitude = np.abs(signal).astype(np.float32)
    return susceptibility_weighted(magnitude, phase, power=settings.power)


def reconstruct_field(echoes: GradientEchoes) -> FloatMap:
    """Total field in ppm (I, J, K), up to a smooth offset."""
    return combine_echoes(
        [np.angle(signal).astype(np.float32) for signal in echoes.signals],
        [np.abs(signal).astype(np.float32) for signal in echoes.signals],
        echo_times_s=echoes.echo_times_s,
        b0_t=echoes.b0_t,
        spacing_mm=echoes.spacing_mm,
    )


def reconstruct_chimap(
    echoes: GradientEchoes,
    brain: BoolMap,
    settings: ChimapSettings,
    *,
    csf: BoolMap | None = None,
) -> tuple[FloatMap, BoolMap]:
    """Susceptibility map in ppm (I, J, K), 0 outside, and the eroded mask it holds in.

    Parameters
    ----------
    brain : (I, J, K) bool array
    csf : (I, J, K) bool array, optional
        Ventricles, for ``reference="csf"``; without them the brain's mean is the reference.

    Raises
    ------
    GeometryError
        If the mask is too small for the smallest sphere.
    ConfigError
        If a method is unknown.
    """
    local = reconstruct_local_field(echoes, brain, settings)
    return invert_local_field(local, echoes, settings, csf=csf).chi_ppm, local.mask


def reconstruct_local_field(
    echoes: GradientEchoes, brain: BoolMap, settings: ChimapSettings
) -> LocalField:
    """Unwrap, combine the echoes, and take off the background: what the inversion needs.

    Raises
    ------
    GeometryError
        If the mask is too small for the smallest sphere.
    ConfigError
        If a method is unknown.
    """
    mask = erode_mm(brain, echoes.spacing_mm, max(settings.erosion_mm - 1.0, 0.0))
    mask = _without_islands(mask & reliable_mask(echoes, brain))
    total = _total_field(echoes, brain, settings.unwrap)
    local, inner = _without_background(total, mask, echoes, settings)
    inner = _without_islands(inner)
    return LocalField(np.where(inner, local, np.float32(0)), inner, total, mask)


def torn_share(local: LocalField, echoes: GradientEchoes) -> float:
    """Share of the brain over which unwrapping along paths has torn the field of a single echo.

    0 with several echoes: the coils' phase, whose lines tear it, drops out between them.
    """
    if len(echoes.signals) > 1:
        return 0.0
    half_turn_ppm = np.pi / phase_per_ppm_rad(echoes.b0_t, echoes.echo_times_s[0])
    return largest_tear(local.total.field_ppm, local.brain, half_turn_ppm=half_turn_ppm)


def invert_local_field(
    local: LocalField,
    echoes: GradientEchoes,
    settings: ChimapSettings,
    *,
    csf: BoolMap | None = None,
) -> Inversion:
    """Susceptibility map in ppm (I, J, K) of a local field, referenced, 0 outside its mask.

    V-SHARP takes off some of the local field too, most of all that of large nuclei. With
    `refinements`, the field of the χ found so far is taken off the total field first, V-SHARP
    runs on what is left, and χ is found again from the sum. Whether iteration came to its end is
    said of the last time.

    Raises
    ------
    ConfigError
        If the method is unknown.
    """
    inner = local.mask
    inversion = _inverted(local.field_ppm, local, echoes, settings)
    for _ in range(settings.refinements):
        spacing, b0 = echoes.spacing_mm, echoes.b0_direction
        explained = field_ppm(inversion.chi_ppm, spacing, b0, margin_mm=_CONVOLUTION_MARGIN_MM)
        rest = FieldMap(local.total.field_ppm - explained, local.total.weight)
        remaining, _ = _without_background(rest, local.brain, echoes, settings)
        inversion = _inverted(remaining + explained, local, echoes, settings)
    chi = inversion.chi_ppm
    where = inner & csf if settings.reference == "csf" and csf is not None else inner
    zero = float(np.mean(chi[where if where.any() else inner]))
    return replace(inversion, chi_ppm=np.where(inner, chi - np.float32(zero), 0).astype(np.float32))


def _without_background(
    total: FieldMap, mask: BoolMap, echoes: GradientEchoes, settings: ChimapSettings
) -> tuple[FloatMap, BoolMap]:
    if settings.background == "vsharp":
        return remove_background_vsharp(
            total.field_ppm,
            mask,
            echoes.spacing_mm,
            radii_mm=_radii_mm(settings, echoes.spacing_mm),
            threshold=settings.vsharp_threshold,
        )
    if settings.background == "pdf":
        spacing, b0 = echoes.spacing_mm, echoes.b0_direction
        return remove_background_pdf(total, mask, spacing, b0, tolerance=settings.pdf_tolerance)
    raise ConfigError(
        f"unknown background removal {settings.background!r}; known are 'vsharp' and 'pdf'"
    )


def _inverted(
    field: FloatMap,
    local: LocalField,
    echoes: GradientEchoes,
    settings: ChimapSettings,
) -> Inversion:
    spacing, b0, strength = echoes.spacing_mm, echoes.b0_direction, settings.strength
    if settings.method != "medi":
        chi = invert(field, local.mask, spacing, b0, method=settings.method, strength=strength)
        return Inversion(chi, unsettled=None)
    square = sum(np.abs(signal) ** 2 for signal in echoes.signals)
    morphology = Morphology(local.total.weight, np.sqrt(square).astype(np.float32))
    return invert_medi_in_mask(
        field,
        local.mask,
        morphology,
        spacing,
        b0,
        strength=strength,
        tolerance=settings.tolerance,
    )


def _total_field(echoes: GradientEchoes, brain: BoolMap, unwrap: UnwrapMethod) -> FieldMap:
    phases = [np.angle(signal).astype(np.float32) for signal in echoes.signals]
    magnitudes = [np.abs(signal).astype(np.float32) for signal in echoes.signals]
    times, b0_t = echoes.echo_times_s, echoes.b0_t
    if unwrap == "laplacian":
        spacing = echoes.spacing_mm
        return laplacian_field(
            phases, magnitudes, echo_times_s=times, b0_t=b0_t, spacing_mm=spacing
        )
    if unwrap == "path":
        return path_field(phases, magnitudes, brain, echo_times_s=times, b0_t=b0_t)
    raise ConfigError(f"unknown unwrapping {unwrap!r}; known are 'laplacian' and 'path'")


def reliable_mask(echoes: GradientEchoes, brain: BoolMap) -> BoolMap:
    """Where phase can be unwrapped: not in broad dropout or fringes, as above the sinuses.

    A voxel is unreliable where the last echo has lost its signal or where the phase steps by
    more than 2 rad to a neighbour. Only areas wider than 6 mm are taken out: microbleeds and
    veins stay.
    """
    last = echoes.signals[-1]
    phase = last * np.conj(echoes.signals[-2]) if len(echoes.signals) > 1 else last
    magnitude = np.abs(last)
    bad = magnitude < 0.15 * float(np.median(magnitude[brain]))
    for axis in range(3):
        step = np.abs(np.angle(phase * np.conj(np.roll(phase, 1, axis))))
        bad |= step > 2.0
    reach = [max(1, round(3.0 / step)) for step in echoes.spacing_mm]
    share = ndimage.uniform_filter(bad.astype(np.float32), [2 * r + 1 for r in reach])
    return np.asarray(share < 0.5)


def _without_islands(mask: BoolMap) -> BoolMap:
    """Leave out pieces of a mask with less than a hundredth of the largest one's voxels.

    Such an island is what broad dropout has left of the brain's rim: unwrapped along paths it has
    a zero of its own, and its field is mostly the background's.
    """
    pieces, _ = ndimage.label(mask)
    size = np.bincount(pieces.ravel())
    size[0] = 0
    return np.asarray(mask & (size >= 0.01 * size.max())[pieces])


def erode_mm(mask: BoolMap, spacing_mm: Sequence[float], by_mm: float) -> BoolMap:
    """Take a rim of `by_mm` off a mask, also where the field of view cuts it."""
    if by_mm <= 0:
        return mask.copy()
    return np.asarray(depth_mm(mask, spacing_mm) > by_mm)


def depth_mm(mask: BoolMap, spacing_mm: Sequence[float]) -> FloatMap:
    """Distance (I, J, K) to the nearest voxel outside a mask; all beyond the grid is outside.

    Examples
    --------
    >>> depth_mm(np.ones((1, 1, 3), dtype=bool), (9.0, 9.0, 2.0)).ravel().tolist()
    [2.0, 4.0, 2.0]
    """
    # Without a voxel outside, as in a mask of a whole block, SciPy's distances mean nothing.
    far = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=spacing_mm)
    return np.asarray(far[1:-1, 1:-1, 1:-1])


def _radii_mm(settings: ChimapSettings, spacing_mm: Sequence[float]) -> tuple[float, ...]:
    smallest = max(spacing_mm[0], spacing_mm[1], min(1.0, spacing_mm[2])) * 1.01
    return tuple(float(radius) for radius in np.linspace(smallest, settings.largest_sphere_mm, 5))
