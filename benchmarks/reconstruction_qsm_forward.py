"""Accuracy of ``deepmir reconstruct`` on raw echoes that another program simulated.

    python -m venv qf && qf/bin/pip install qsm-forward
    python benchmarks/reconstruction_qsm_forward.py --program qf/bin/qsm-forward --out work/qf

qsm-forward (GPL-3, github.com/astewartau/qsm-forward) has a dipole, a signal, a shim and a coil
phase of its own. It is run as a program, in an environment of its own, and writes BIDS data sets;
``deepmir reconstruct --bids`` makes a map of each by every method, inside the mask that belongs to
the data, and the map is compared with the χ that was simulated:

- cylinders: qsm-forward's own phantom, five values of χ, no background field
- head: our susceptibility, relaxation and proton density of a whole head with air and bone, at
  1 mm; their field and signal
- tilted-head: the same, with B0 25° off the third voxel axis
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from deepmir.io.bids import ReconstructionOutputs
from deepmir.simulation.cohort import open_anatomy
from deepmir.simulation.tissue import AIR_CHI_PPM, lookup, sample_tissue_values, texture
from deepmir.volume import BoolMap, FloatMap, IntMap

SUBJECT = "1"
ECHO_TIMES_S, FIELD_T, PEAK_SNR = (0.0075, 0.015, 0.0225, 0.030), 3.0, 100.0
NECK_MM = 40  # the lowest slice is continued by it: a neck that ended there would be a magnet
OUTSIDE = (0, 506, 507, 508, 509, 511, 512, 515, 516, 530)
NUCLEI = (10, 49, 11, 50, 12, 51, 13, 52, 1001, 1002, 1003, 1004, 1005, 1006)
METHODS = {  # settings of [reconstruct]
    "default": "",
    "closed form": 'inversion = "closed-form"\nrefinements = 0\n',
    "TKD": 'inversion = "tkd"\nrefinements = 0\n',
}


@dataclass(frozen=True, slots=True)
class DataSet:
    """What qsm-forward simulates."""

    kind: Literal["simple", "head"]
    tilt_deg: float = 0.0  # of B0 off the third voxel axis, towards the first


DATA = {
    "cylinders": DataSet("simple"),
    "head": DataSet("head"),
    "tilted-head": DataSet("head", tilt_deg=25.0),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One method on one data set, where all methods' maps hold."""

    data: str
    method: str
    nrmse_percent: float
    correlation: float
    slope: float  # of found χ with true χ, over voxels
    part_slope: float  # over the means of cylinders, or of deep nuclei
    part_correlation: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate, reconstruct, compare; print a table and write JSON."""
    given = _parse(arguments)
    program = shutil.which(given.program)
    if program is None:
        raise SystemExit(
            f"found no program {given.program}; install qsm-forward (pip install qsm-forward, best "
            "in an environment of its own) and name it: --program FOLDER/bin/qsm-forward"
        )
    given.out.mkdir(parents=True, exist_ok=True)
    phantom = given.out / "phantom"
    head_maps(given.head, phantom, seed=given.seed)
    rows = []
    for name in given.data:
        data = DATA[name]
        bids = given.out / name
        words = ["simple"] if data.kind == "simple" else ["head", str(phantom)]
        _call([program, *words, str(bids), *simulation_words(data.tilt_deg, given.seed)])
        truth = bids / "derivatives" / "qsm-forward" / f"sub-{SUBJECT}" / "anat"
        maps = {
            method: reconstructed(bids, truth, given.out, method, settings)
            for method, settings in METHODS.items()
        }
        parts = cylinder_parts(truth) if data.kind == "simple" else nucleus_parts(truth)
        rows += compare(name, maps, _read(_scan(truth, "Chimap")), parts)
    print_table(rows)
    record = json.dumps([asdict(row) for row in rows], indent=1)
    (given.out / "reconstruction_qsm_forward.json").write_text(record + "\n", encoding="utf-8")
    return 0


# ---- data ------------------------------------------------------------------


def head_maps(head: Path | None, folder: Path, *, seed: int) -> None:
    """Write a head as qsm-forward reads it: χ, proton density, R1, R2*, brain, labels; 1 mm."""
    anatomy = open_anatomy(head)
    rng = np.random.default_rng(seed)
    values = sample_tissue_values(rng, b0_t=FIELD_T, age_years=65.0)
    neck = ((0, 0), (0, 0), (NECK_MM, 0))
    labels = np.pad(_down_to_the_neck(anatomy.labels), neck, mode="edge")
    brain = np.pad(anatomy.brain, neck)
    affine = anatomy.affine.copy()
    affine[:3, 3] -= NECK_MM * affine[:3, 2]
    maps: dict[str, npt.NDArray[np.generic]] = {
        "chimodel/ChiModelMIX.nii": susceptibility(labels, brain, values.chi_ppm, rng),
        "maps/M0.nii.gz": lookup(labels, values.proton_density),
        "maps/R1.nii.gz": 1 / lookup(labels, values.t1_s),
        "maps/R2star.nii.gz": lookup(labels, values.r2star_hz),
        "masks/BrainMask.nii.gz": brain,
        "masks/SegmentedModel.nii.gz": labels,
    }
    for name, data in maps.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        nib.Nifti1Image(data.astype(np.float32), affine).to_filename(folder / name)


def susceptibility(
    labels: IntMap, brain: BoolMap, per_label: FloatMap, rng: np.random.Generator
) -> FloatMap:
    """Make χ of a whole head in air: the brain with texture, what is around it blurred.

    Sharp steps of 9 ppm would ring through the head; what the blur carries into the brain is no
    source there.
    """
    chi = lookup(labels, per_label)
    outside = np.isin(labels, OUTSIDE) & ~brain
    inside = ndimage.gaussian_filter(np.where(outside, 0, chi), 0.5)
    inside += brain * texture(labels.shape, rng, correlation_voxels=1.5, amplitude=0.01)
    around = ndimage.gaussian_filter(np.where(outside, chi, 0), 1.0)
    total = np.where(brain, inside, around)
    total[-1, -1, -1] = AIR_CHI_PPM  # what qsm-forward puts around the map
    return np.asarray(total, dtype=np.float32)


def _down_to_the_neck(labels: IntMap) -> IntMap:
    """Cut the air and the ragged lowest slices below the head off, by filling them."""
    lowest = int(np.flatnonzero((labels > 0).any(axis=(0, 1)))[0]) + 2
    filled = labels.copy()
    filled[:, :, :lowest] = labels[:, :, [lowest]]
    return filled


def simulation_words(tilt_deg: float, seed: int) -> list[str]:
    """Return the options of qsm-forward that say how it scans."""
    tilt = np.deg2rad(tilt_deg)
    return [
        "--subject", SUBJECT, "--B0", str(FIELD_T),
        "--B0-dir", f"{np.sin(tilt):.6f}", "0", f"{np.cos(tilt):.6f}",
        "--TEs", *map(str, ECHO_TIMES_S), "--TR", "0.04", "--flip_angle", "15",
        "--peak-snr", str(PEAK_SNR), "--random-seed", str(seed),
    ]  # fmt: skip


def cylinder_parts(truth: Path) -> IntMap:
    """Return the number (I, J, K) of each cylinder of the phantom, by its χ; 0 outside."""
    chi = _read(_scan(truth, "Chimap"))
    values = np.unique(chi[chi != 0])
    return np.where(chi != 0, np.searchsorted(values, chi) + 1, 0).astype(np.int32)


def nucleus_parts(truth: Path) -> IntMap:
    """Label (I, J, K) of each deep nucleus, a voxel off its surface; 0 elsewhere."""
    labels = np.rint(_read(_scan(truth, "dseg"))).astype(np.int32)
    kept = np.zeros_like(labels)
    for label in NUCLEI:
        kept[ndimage.binary_erosion(labels == label)] = label
    return kept


# ---- maps ------------------------------------------------------------------


def reconstructed(
    bids: Path, truth: Path, out: Path, method: str, settings: str
) -> tuple[FloatMap, BoolMap]:
    """Run the verb on a data set; return χ and where it holds."""
    folder = out / f"{bids.name}_{method.replace(' ', '_')}"
    folder.mkdir(exist_ok=True)
    config = folder / "config.toml"
    config.write_text(f"[reconstruct]\n{settings}", encoding="utf-8")
    words = [sys.executable, "-m", "deepmir.cli", "reconstruct", "--bids", str(bids)]
    words += ["--subject", SUBJECT, "--brain-mask", str(_scan(truth, "mask"))]
    words += ["--config", str(config), "--out", str(folder / "maps"), "--overwrite"]
    _call(words)
    names = ReconstructionOutputs(SUBJECT)
    return _read(folder / "maps" / names.chimap), _read(folder / "maps" / names.mask) > 0


def compare(
    data: str, maps: dict[str, tuple[FloatMap, BoolMap]], truth: FloatMap, parts: IntMap
) -> list[Row]:
    """Compare the maps with the truth, each relative to its mean where all of them hold."""
    mask = np.logical_and.reduce([mask for _, mask in maps.values()])
    true = truth - truth[mask].mean()
    numbers = [n for n in np.unique(parts[mask & (parts > 0)]) if (mask & (parts == n)).sum() > 30]
    true_parts = ndimage.mean(true, np.where(mask, parts, 0), numbers)
    rows = []
    for method, (chi, _) in maps.items():
        found = chi - chi[mask].mean()
        found_parts = ndimage.mean(found, np.where(mask, parts, 0), numbers)
        error = np.linalg.norm((found - true)[mask]) / np.linalg.norm(true[mask])
        row = Row(
            data=data,
            method=method,
            nrmse_percent=round(100 * float(error), 1),
            correlation=round(float(np.corrcoef(true[mask], found[mask])[0, 1]), 3),
            slope=round(float(np.polyfit(true[mask], found[mask], 1)[0]), 3),
            part_slope=round(float(np.polyfit(true_parts, found_parts, 1)[0]), 3),
            part_correlation=round(float(np.corrcoef(true_parts, found_parts)[0, 1]), 3),
        )
        print(row, flush=True)
        rows.append(row)
    return rows


def print_table(rows: Sequence[Row]) -> None:
    """Print all rows as Markdown."""
    head = ("data", "method", "NRMSE %", "correlation", "slope", "slope over parts (r)")
    print("| " + " | ".join(head) + " |")
    print("|---" * len(head) + "|")
    for row in rows:
        cells = (
            row.data,
            row.method,
            f"{row.nrmse_percent:.0f}",
            f"{row.correlation:.2f}",
            f"{row.slope:.2f}",
            f"{row.part_slope:.2f} ({row.part_correlation:.2f})",
        )
        print("| " + " | ".join(cells) + " |")


def _scan(folder: Path, suffix: str) -> Path:
    return folder / f"sub-{SUBJECT}_{suffix}.nii"


def _read(path: Path) -> FloatMap:
    return np.asarray(nib.nifti1.load(path).dataobj, dtype=np.float32)


def _call(words: Sequence[str]) -> None:
    print(" ".join(words), flush=True)
    done = subprocess.run(words, check=False)  # noqa: S603 - the benchmark's own command lines
    if done.returncode != 0:
        raise SystemExit(f"{words[0]} failed with code {done.returncode}; its words are above")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Accuracy on echoes simulated by qsm-forward.")
    parser.add_argument("--program", default="qsm-forward", help="the program, or its path")
    parser.add_argument("--data", nargs="+", choices=DATA, default=[*DATA], help="some only")
    parser.add_argument("--head", type=Path, help="anatomy (.npz); else the built-in head")
    parser.add_argument("--out", type=Path, required=True, help="folder of data, maps and JSON")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
