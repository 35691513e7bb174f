"""Accuracy of every way to make a Chimap, against simulated truth; time and memory of the verb.

    python benchmarks/reconstruction.py --heads HEAD.npz … --out work/reconstruction
    python benchmarks/reconstruction.py --heads HEAD.npz --out work/reconstruction --speed

Each head is scanned by the `mesa-like` protocol (noise, coil, background field of air, bone and
scalp) with 20 microbleeds, 4 iron deposits and 10 calcifications. Each method reconstructs the
scan with and without them, so that a deposit's total χ is that of the difference; in brackets is
what a user would measure, relative to a ring. Without --heads, the built-in head. `--speed`
runs ``deepmir reconstruct`` on 256 × 256 × 128 voxels and 4 echoes in a process of its own.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from deepmir.config import ReconstructConfig
from deepmir.io.bids import ReconstructionOutputs
from deepmir.reconstruction.person import chimap_settings
from deepmir.reconstruction.run import ChimapSettings, GradientEchoes, reconstruct_chimap
from deepmir.simulation.acquire import Acquisition, acquire
from deepmir.simulation.cohort import open_anatomy
from deepmir.simulation.lesions import Counts, Deposit, DepositEffect, Kind
from deepmir.simulation.protocol import mesa_like
from deepmir.simulation.scene import build_scene, sample_variation
from deepmir.volume import BoolMap, FloatMap

COUNTS = Counts(cmb=20, iron=4, calcification=10, mixed=0)
LEAST_MOMENT = 3.0  # ppm mm³
REACH_MM, RING_MM = 3.0, 5.0  # around a deposit: what is summed up, and what it is compared with
NUCLEI = (10, 49, 11, 50, 12, 51, 13, 52, 1001, 1002, 1003, 1004, 1005, 1006)
FLOORS = "slope 0.85 to 1.15, correlation >= 0.85, microbleeds < 20 %, calcifications >= 98 %"
SHAPE, ECHO_TIMES_S = (256, 256, 128), (0.0075, 0.015, 0.0225, 0.030)
MAX_SWI_S, MAX_QSM_S, MAX_GIGABYTES = 20.0, 90.0, 6.0

DEFAULT = ReconstructConfig()
METHODS: dict[str, ChimapSettings] = {
    "default": chimap_settings(DEFAULT),
    "TKD": chimap_settings(ReconstructConfig(inversion="tkd", refinements=0)),
    "closed form": chimap_settings(ReconstructConfig(inversion="closed-form", refinements=0)),
    "MEDI, V-SHARP once": chimap_settings(ReconstructConfig(refinements=0)),
    "MEDI, V-SHARP twice": chimap_settings(ReconstructConfig(refinements=1)),
    "MEDI, V-SHARP once, Laplacian": chimap_settings(
        ReconstructConfig(unwrap="laplacian", refinements=0)
    ),
    "MEDI, V-SHARP thrice, Laplacian": chimap_settings(ReconstructConfig(unwrap="laplacian")),
    "MEDI, PDF": chimap_settings(ReconstructConfig(background="pdf", refinements=0)),
}


@dataclass(slots=True)
class Figures:
    """What one method did, over all heads."""

    nrmse_percent: list[float] = field(default_factory=list)
    hfen_percent: list[float] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)
    correlation: list[float] = field(default_factory=list)
    nuclei: list[tuple[float, float]] = field(default_factory=list)  # true, found
    microbleeds: list[tuple[float, float, float]] = field(default_factory=list)
    """True total χ, found by difference, found against a ring; ppm mm³."""
    calcifications_negative: list[bool] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """One simulated head."""

    acquisition: Acquisition
    deposits: tuple[Deposit, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table, write JSON."""
    given = _parse(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    heads = given.heads or [None]
    if given.speed:
        record: object = measure_speed(heads[0], given.out, cores=given.cores)
        target = given.out / "reconstruction_speed.json"
    else:
        methods = {name: METHODS[name] for name in (given.methods or METHODS)}
        figures = {name: Figures() for name in methods}
        for number, head in enumerate(heads):
            counts = replace(COUNTS, calcification=given.calcifications)
            scan = simulate(head, seed=given.seed + number, counts=counts)
            scan_and_measure(scan, methods, figures)
        record = {name: summary(one) | {"raw": asdict(one)} for name, one in figures.items()}
        print_table(figures)
        target = given.out / "reconstruction.json"
    target.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


# ---- accuracy --------------------------------------------------------------


def simulate(head: Path | None, *, seed: int, counts: Counts = COUNTS) -> Scan:
    """Scan one head with many deposits."""
    rng = np.random.default_rng(seed)
    protocol, variation = mesa_like(), sample_variation(rng)
    scene = build_scene(open_anatomy(head), protocol, variation, counts, rng)
    return Scan(acquire(scene, protocol, rng), tuple(scene.deposits))


def scan_and_measure(
    scan: Scan, methods: dict[str, ChimapSettings], figures: dict[str, Figures]
) -> None:
    """Reconstruct one scan by every method, and measure where all of their maps hold."""
    maps = {}
    for name, settings in methods.items():
        begin = time.perf_counter()
        chi, mask = reconstruct_chimap(scan.acquisition.echoes, scan.acquisition.brain, settings)
        figures[name].seconds.append(round(time.perf_counter() - begin, 1))
        bare, _ = reconstruct_chimap(
            scan.acquisition.echoes_without_deposits, scan.acquisition.brain, settings
        )
        maps[name] = chi, bare, mask
    common = np.logical_and.reduce([mask for _, _, mask in maps.values()])
    for name, (chi, bare, _) in maps.items():
        measure_voxels(figures[name], chi, scan.acquisition.chi_ppm, common)
        measure_nuclei(figures[name], chi, scan, common)
        measure_deposits(figures[name], chi, chi - bare, scan, common)
        print(name, summary(figures[name]), flush=True)


def measure_voxels(figures: Figures, chi: FloatMap, truth: FloatMap, mask: BoolMap) -> None:
    """Compare voxel by voxel, both relative to their mean in the mask."""
    found, true = (np.where(mask, one - one[mask].mean(), 0) for one in (chi, truth))
    error = np.linalg.norm((found - true)[mask]) / np.linalg.norm(true[mask])
    figures.nrmse_percent.append(round(100 * float(error), 2))
    edges = [ndimage.gaussian_laplace(one, 1.5)[mask] for one in (found, true)]
    edge_error = np.linalg.norm(edges[0] - edges[1]) / np.linalg.norm(edges[1])
    figures.hfen_percent.append(round(100 * float(edge_error), 2))
    figures.ssim.append(round(structural_similarity(found, true, mask), 4))
    figures.correlation.append(round(float(np.corrcoef(found[mask], true[mask])[0, 1]), 4))


def structural_similarity(found: FloatMap, true: FloatMap, mask: BoolMap) -> float:
    """SSIM with a Gaussian window of 1.5 voxels and the constants of XSIM.

    Milovic 2024, doi:10.1002/mrm.30271: dynamic range 1 ppm, K1 = 0.01, K2 = 0.001.
    """
    c1, c2 = 0.01**2, 0.001**2
    blur = [ndimage.gaussian_filter(image, 1.5) for image in (found, true)]
    square = [ndimage.gaussian_filter(image**2, 1.5) for image in (found, true)]
    product = ndimage.gaussian_filter(found * true, 1.5) - blur[0] * blur[1]
    variance = [s - b**2 for s, b in zip(square, blur, strict=True)]
    above = (2 * blur[0] * blur[1] + c1) * (2 * product + c2)
    below = (blur[0] ** 2 + blur[1] ** 2 + c1) * (variance[0] + variance[1] + c2)
    return float(np.mean((above / below)[mask]))


def measure_nuclei(figures: Figures, chi: FloatMap, scan: Scan, mask: BoolMap) -> None:
    """Mean χ of each deep nucleus away from deposits, relative to the mask's mean."""
    occupied = np.zeros(mask.shape, dtype=bool)
    for effect in scan.acquisition.effects:
        if effect is not None:
            occupied[effect.block] |= effect.fraction > 0
    free = mask & ~ndimage.binary_dilation(occupied, iterations=2)
    truth = scan.acquisition.chi_ppm
    zero, true_zero = float(chi[mask].mean()), float(truth[mask].mean())
    for label in NUCLEI:
        nucleus = free & (scan.acquisition.labels == label)
        if nucleus.sum() > 30:
            pair = float(truth[nucleus].mean()) - true_zero, float(chi[nucleus].mean()) - zero
            figures.nuclei.append((round(pair[0], 5), round(pair[1], 5)))


def measure_deposits(
    figures: Figures, chi: FloatMap, change: FloatMap, scan: Scan, mask: BoolMap
) -> None:
    """Total χ of microbleeds and sign of calcifications that lie wholly in the mask."""
    spacing = scan.acquisition.echoes.spacing_mm
    voxel_mm3 = float(np.prod(spacing))
    for deposit, effect in zip(scan.deposits, scan.acquisition.effects, strict=True):
        if effect is None or not effect.fraction.any():
            continue
        away = ndimage.distance_transform_edt(effect.fraction <= 0, sampling=spacing)
        near, ring = away <= REACH_MM, (away > REACH_MM) & (away <= RING_MM)
        inside = mask[effect.block]
        if inside[near].mean() < 0.99 or not (ring & inside).any():
            continue
        here = chi[effect.block]
        around = float(np.median(here[ring & inside]))
        true = float(effect.fraction.sum()) * deposit.chi_ppm * voxel_mm3
        if deposit.kind is Kind.CMB and true >= LEAST_MOMENT:
            by_difference = float(change[effect.block][near].sum()) * voxel_mm3
            by_ring = float((here[near] - around).sum()) * voxel_mm3
            figures.microbleeds.append((round(true, 2), round(by_difference, 2), round(by_ring, 2)))
        elif deposit.kind is Kind.CALCIFICATION:
            figures.calcifications_negative.append(is_negative(here, around, effect))


def is_negative(here: FloatMap, around: float, effect: DepositEffect) -> bool:
    """Tell whether a deposit's mean χ, weighted by its share of voxels, lies below its ring."""
    return bool(np.average(here, weights=effect.fraction) < around)


def summary(figures: Figures) -> dict[str, float]:
    """Return the figures of one method in short."""
    true, found = np.array(figures.nuclei).T
    total, change, ring = np.array(figures.microbleeds).T
    errors = np.abs(change - total) / total, np.abs(ring - total) / total
    return {
        "nrmse_percent": round(float(np.mean(figures.nrmse_percent)), 1),
        "hfen_percent": round(float(np.mean(figures.hfen_percent)), 1),
        "ssim": round(float(np.mean(figures.ssim)), 3),
        "correlation": round(float(np.mean(figures.correlation)), 3),
        "nucleus_slope": round(float(np.polyfit(true, found, 1)[0]), 3),
        "nucleus_correlation": round(float(np.corrcoef(true, found)[0, 1]), 3),
        "microbleed_error_percent": round(100 * float(errors[0].mean()), 1),
        "microbleed_ring_error_percent": round(100 * float(errors[1].mean()), 1),
        "microbleed_slope": round(float(np.polyfit(total, change, 1)[0]), 3),
        "microbleeds": len(figures.microbleeds),
        "calcification_sign_share": round(float(np.mean(figures.calcifications_negative)), 3),
        "calcifications": len(figures.calcifications_negative),
        "seconds": float(np.mean(figures.seconds)),
    }


def print_table(figures: dict[str, Figures]) -> None:
    """Print all methods side by side, as Markdown."""
    print(f"floors of the default: {FLOORS}\n")
    head = (
        "method", "NRMSE %", "HFEN %", "XSIM", "correlation", "nucleus slope (r)",
        "microbleed total χ, error % (ring)", "calcifications negative", "s",
    )  # fmt: skip
    print("| " + " | ".join(head) + " |")
    print("|---" * len(head) + "|")
    for name, one in figures.items():
        s = summary(one)
        cells = (
            name,
            f"{s['nrmse_percent']:.0f}",
            f"{s['hfen_percent']:.0f}",
            f"{s['ssim']:.2f}",
            f"{s['correlation']:.2f}",
            f"{s['nucleus_slope']:.2f} ({s['nucleus_correlation']:.2f})",
            f"{s['microbleed_error_percent']:.0f} ({s['microbleed_ring_error_percent']:.0f})",
            f"{s['calcification_sign_share']:.0%} of {s['calcifications']:.0f}",
            f"{s['seconds']:.0f}",
        )
        print("| " + " | ".join(cells) + " |")


# ---- speed -----------------------------------------------------------------


def measure_speed(head: Path | None, out: Path, *, cores: int) -> dict[str, object]:
    """Run the verb on a large scan in a process of its own, on the first `cores` cores."""
    echoes = simulate(head, seed=1).acquisition.echoes
    words = [sys.executable, "-m", "deepmir.cli", "reconstruct", "--quiet", "--overwrite"]
    words += ["--subject", "speed", "--out", str(out / "maps"), "--device", "cpu"]
    words += ["--echo-times", ",".join(map(str, ECHO_TIMES_S)), "--field-strength", "3"]
    words += _write_echoes(echoes, out)
    load, allowed = os.getloadavg()[0], sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, allowed[:cores])  # the child inherits it
    begin = time.perf_counter()
    process = subprocess.Popen(words)  # noqa: S603 - our own command line
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - begin
    os.sched_setaffinity(0, allowed)
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit("deepmir reconstruct failed")
    path = out / "maps" / ReconstructionOutputs("speed").provenance
    stages = {
        stage["stage"]: stage["seconds"]
        for stage in json.loads(path.read_text(encoding="utf-8"))["stages"]
    }
    record = {
        "shape": SHAPE,
        "echoes": len(ECHO_TIMES_S),
        "cores": cores,
        "load_before": load,
        "wall_seconds": round(wall, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "swi_seconds": round(stages["read"] + stages["swi"], 1),
        "qsm_seconds": round(stages["read"] + stages["field"] + stages["chimap"], 1),
        "peak_gigabytes": round(usage.ru_maxrss / 2**20, 2),  # Linux counts in KiB
        "stages": stages,
        "limits": {"swi_s": MAX_SWI_S, "qsm_s": MAX_QSM_S, "gigabytes": MAX_GIGABYTES},
    }
    print(json.dumps(record, indent=1))
    return record


def _write_echoes(echoes: GradientEchoes, folder: Path) -> list[str]:
    """Write magnitude and phase, padded or cropped evenly; return the options that name them."""
    signals = np.stack([_fitted(signal) for signal in echoes.signals], axis=-1)
    words = []
    for option, data in (("--mag", np.abs(signals)), ("--phase", np.angle(signals))):
        path = folder / f"speed_{option[2:]}.nii"
        affine = np.diag([*echoes.spacing_mm, 1.0])
        nib.Nifti1Image(data.astype(np.float32), affine).to_filename(path)
        words += [option, str(path)]
    return words


def _fitted(image: npt.NDArray[np.complexfloating]) -> npt.NDArray[np.complexfloating]:
    fitted = np.zeros(SHAPE, dtype=np.complex64)
    noise = np.random.default_rng(0).normal(0, 1e-3, (2, *SHAPE))
    fitted += noise[0] + 1j * noise[1]
    start = [(wanted - have) // 2 for wanted, have in zip(SHAPE, image.shape, strict=True)]
    source = tuple(slice(max(-s, 0), max(-s, 0) + n) for s, n in zip(start, SHAPE, strict=True))
    part = image[source]
    target = tuple(slice(max(s, 0), max(s, 0) + n) for s, n in zip(start, part.shape, strict=True))
    fitted[target] = part
    return fitted


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Accuracy and speed of the reconstruction.")
    parser.add_argument("--heads", type=Path, nargs="+", help="anatomies (.npz); else the built-in")
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSON")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="some of them only")
    parser.add_argument(
        "--calcifications",
        type=int,
        default=COUNTS.calcification,
        help="in each head; about a third of them lie wholly inside the maps and count",
    )
    parser.add_argument("--speed", action="store_true", help="time and memory instead")
    parser.add_argument("--cores", type=int, default=2)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
