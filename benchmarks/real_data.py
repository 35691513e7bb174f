"""Real scans: QSM alone on brains without known microbleeds, and T2w alone.

    python benchmarks/real_data.py --shared FOLDER --out work/real

FOLDER holds ``qsm_real`` and ``t2w``. Every microbleed found on the QSM counts as false. The
header's voxel size of those maps is a dummy, so it is set here to 0.94 × 0.94 × 3 mm. Their side
is unknown: Dice of the nuclei pools the sides. Writes ``real_data.json``.
"""

import argparse
import json
from pathlib import Path

import nibabel as nib
import numpy as np

from deepmir.labels import Finding
from deepmir.pipeline import segment

QSM_SPACING_MM = (0.94, 0.94, 3.0)
WHILE_WORKING = ("N001", "N002", "N003", "N007")
FINAL_ONLY = ("N010", "N011", "N012", "N013")
NUCLEI = {"caudate": ((1, 2), 21), "putamen": ((3, 4), 22), "pallidum": ((5, 6), 23)}


def main() -> None:
    """Run all scans, print one line each, write the JSON."""
    options = read_options()
    options.out.mkdir(parents=True, exist_ok=True)
    names = FINAL_ONLY if options.final else WHILE_WORKING
    rows = [qsm_row(options, name) for name in names]
    if not options.final:
        rows += [t2w_row(options, path) for path in sorted((options.shared / "t2w").glob("*.gz"))]
    target = options.out / ("real_data_final.json" if options.final else "real_data.json")
    target.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def read_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument(
        "--final", action="store_true", help="the scans kept for released weights, run once each"
    )
    return parser.parse_args()


def qsm_row(options: argparse.Namespace, name: str) -> dict[str, object]:
    """Segment one QSM alone; findings and Dice of the nuclei."""
    folder = options.shared / "qsm_real"
    data = np.asarray(nib.load(folder / "QSM" / f"{name}_QSM.nii.gz").dataobj, dtype=np.float32)
    affine = np.diag([*QSM_SPACING_MM, 1.0])
    path = options.out / f"{name}_Chimap.nii.gz"
    nib.Nifti1Image(data, affine).to_filename(path)
    result = segment(qsm=path, weights=options.weights, subject=name)
    truth_path = folder / "Label" / f"{name}_Q_QSM_SyNAggro_moved_ROIs.nii.gz"
    truth = np.asarray(nib.load(truth_path).dataobj)
    dice = dice_of_nuclei(result.prepared.regions, truth)
    counts = {f.name: sum(lesion.finding is f for lesion in result.lesions) for f in Finding}
    brain = dice_of(result.prepared.brain_mask, data != 0)
    row = {
        "scan": name,
        "findings": counts,
        "dice": {nucleus: both[0] for nucleus, both in dice.items()},
        "dice_in_labelled_slices": {nucleus: both[1] for nucleus, both in dice.items()},
        "brain_dice": round(brain, 3),
    }
    print(row, flush=True)
    for lesion in result.lesions:
        print("  ", lesion.finding.name, [round(x, 1) for x in lesion.centroid_mm],
              f"{lesion.diameter_mm:.1f} mm", lesion.peak_chi_ppm, lesion.probability)  # fmt: skip
    return row


def dice_of_nuclei(regions: np.ndarray, silver: np.ndarray) -> dict[str, tuple[float, float]]:
    """Dice of each nucleus over all slices, and over those where the silver labels have it."""
    dice = {}
    for nucleus, (both, base) in NUCLEI.items():
        found, wanted = np.isin(regions, [100 + base, 200 + base]), np.isin(silver, both)
        labelled = wanted.any(axis=(0, 1))
        parts = ((found, wanted), (found[..., labelled], wanted[..., labelled]))
        whole, within = (round(dice_of(*part), 3) for part in parts)
        dice[nucleus] = (whole, within)
    return dice


def t2w_row(options: argparse.Namespace, path: Path) -> dict[str, object]:
    """Segment one T2w alone: regions, and every count not applicable."""
    result = segment(t2w=path, weights=options.weights)
    volume = float(result.prepared.brain_mask.sum()) * result.prepared.grid.voxel_volume_mm3 / 1000
    row = {
        "scan": path.name,
        "brain_ml": round(volume),
        "regions": int(np.count_nonzero(np.unique(result.prepared.regions))),
        "counts_told": result.summary.cmb is not None,
    }
    print(row, flush=True)
    return row


def dice_of(first: np.ndarray, second: np.ndarray) -> float:
    """Dice overlap of two masks; nan where both are empty."""
    total = int(first.sum()) + int(second.sum())
    return float("nan") if total == 0 else 2 * int((first & second).sum()) / total


if __name__ == "__main__":
    main()
