"""Raw gradient echo of known χ: a round brain with a nucleus, a vein, a calcification."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nibabel.nifti1 import Nifti1Image
from scipy import ndimage

from deepmir.io.bids import sidecar_path
from deepmir.physics.dipole import field_ppm
from deepmir.physics.signal import gradient_echo
from deepmir.reconstruction.run import GradientEchoes

SHAPE = (46, 50, 32)
SPACING_MM = (1.0, 1.1, 1.6)
B0 = (0.0, 0.0, 1.0)
TIMES_S = (0.006, 0.013, 0.020)
B0_T = 3.0


@dataclass(frozen=True)
class RawPhantom:
    """Echoes and the truth."""

    echoes: GradientEchoes
    chi_ppm: np.ndarray
    brain: np.ndarray


def raw_phantom(*, noise=0.004, times_s=TIMES_S) -> RawPhantom:
    """Build the phantom; the field of air outside wraps the phase many times."""
    at = (np.indices(SHAPE).T - (np.array(SHAPE) - 1) / 2) * SPACING_MM
    x, y, z = np.moveaxis(at, -1, 0).transpose(0, 3, 2, 1)
    brain = x**2 + y**2 + z**2 < 21.5**2
    chi = np.zeros(SHAPE)
    nucleus = (x**2 + y**2 + (z / 0.8) ** 2) < 7**2
    vein = ((x - 11) ** 2 + (z - 2) ** 2 < 1.3**2) & (abs(y) < 12)
    calcification = (x + 12) ** 2 + (y - 3) ** 2 + (z + 4) ** 2 < 2.2**2
    chi[nucleus], chi[vein], chi[calcification] = 0.12, 0.4, -0.6
    chi = (ndimage.gaussian_filter(chi, 0.5) * brain).astype(np.float32)
    air = np.zeros(SHAPE, np.float32)
    air[18:28, 0:4, 12:20] = 9.0
    field = field_ppm(chi, SPACING_MM, B0, margin_mm=25)
    field = field + field_ppm(air, SPACING_MM, B0, margin_mm=25)
    amplitude = (100 * brain + 0.01).astype(np.float32)
    decay = (20 + 200 * np.abs(chi)).astype(np.float32)
    rng = np.random.default_rng(5)
    coil = np.exp(1j * (0.6 + 0.02 * np.indices(SHAPE)[1]))
    signals = []
    for time in times_s:
        clean = gradient_echo(amplitude, decay, field, b0_t=B0_T, echo_time_s=time) * coil
        extra = rng.standard_normal((2, *SHAPE)) * 100 * noise
        signals.append((clean + extra[0] + 1j * extra[1]).astype(np.complex64))
    echoes = GradientEchoes(tuple(signals), tuple(times_s), B0_T, SPACING_MM, B0)
    return RawPhantom(echoes, chi, brain)


def phantom_affine() -> np.ndarray:
    """RAS+ grid with its origin in the middle."""
    affine = np.diag([*SPACING_MM, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ (np.array(SHAPE) - 1) / 2
    return affine


def write_image(path: Path, data: np.ndarray, affine: np.ndarray | None = None, *, code=1) -> Path:
    """Write a NIfTI; with `code` 0 its header has no orientation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Nifti1Image(data, phantom_affine() if affine is None else affine)
    image.set_sform(image.affine, code=code)
    image.set_qform(image.affine, code=code)
    image.to_filename(path)
    return path


def write_bids(folder: Path, echoes: GradientEchoes, *, subject="07", phase=np.angle) -> Path:
    """Write the echoes as a BIDS person with sidecars; `phase` makes stored phase of a signal."""
    anat = folder / f"sub-{subject}" / "anat"
    for number, (signal, time) in enumerate(
        zip(echoes.signals, echoes.echo_times_s, strict=True), start=1
    ):
        for part, data in (("mag", np.abs(signal)), ("phase", phase(signal))):
            path = anat / f"sub-{subject}_echo-{number}_part-{part}_MEGRE.nii.gz"
            write_image(path, np.asarray(data, np.float32))
            sidecar = {"EchoTime": time, "MagneticFieldStrength": echoes.b0_t}
            sidecar_path(path).write_text(json.dumps(sidecar))
    return folder
