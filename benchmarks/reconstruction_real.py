"""Pictures of what the reconstruction makes of two real scans, for docs/reconstruction.md.

    python benchmarks/reconstruction_real.py --shared FOLDER --out docs/images

FOLDER holds ``gre_philips_3t`` (a head, two echoes, 3 mm) and ``gre_7t_block`` (a crop of a brain,
three echoes). Of the head: SWI, minIP, Chimap (±0.15 ppm) and R2* (0 to 60 / s) in two slices,
inside the network's own brain mask. Of the block: magnitude, SWI, and Chimap (±0.1 ppm) by
TKD, closed form and MEDI, in two slices.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
from scipy import ndimage

import deepmir
from deepmir.config import ReconstructConfig
from deepmir.io.raw import RawScan
from deepmir.volume import FloatMap

Panel = tuple[FloatMap, tuple[float, float]]
"""A map, and the values that are black and white."""
HEAD_SLICES, BLOCK_SLICES = (0.42, 0.55), (0.2, 0.7)  # as shares of the slices that hold the mask
METHODS = ("tkd", "closed-form", "medi")


def main() -> None:
    """Reconstruct both scans and draw them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    head, where = head_panels(given.shared / "gre_philips_3t" / "nifti")
    draw(head, where, HEAD_SLICES, given.out / "reconstruction_philips.png")
    block, where = block_panels(given.shared / "gre_7t_block")
    draw(block, where, BLOCK_SLICES, given.out / "reconstruction_7t_block.png")


def head_panels(folder: Path) -> tuple[list[Panel], np.ndarray]:
    """Four maps of the head, and the mask of its Chimap."""
    scan = RawScan(
        magnitude=tuple(sorted(folder.glob("*_e[12].nii.gz"))),
        phase=tuple(sorted(folder.glob("*_ph.nii.gz"))),
    )
    made = deepmir.reconstruct(scan)
    print("head:", made.sign.reason, f"mask {made.mask.sum() * 27 / 1000:.0f} ml")
    bright = float(np.percentile(made.swi.data, 99.5))
    panels = [
        (made.swi.data, (0.0, bright)),
        (made.minip.data, (0.0, bright)),
        (made.chimap.data, (-0.15, 0.15)),
        (made.r2starmap.data, (0.0, 60.0)),
    ]
    return panels, made.mask


def block_panels(folder: Path) -> tuple[list[Panel], np.ndarray]:
    """Magnitude, SWI and three Chimaps of the block, and the mask of the last."""
    scan = RawScan(
        magnitude=(folder / "Mag.nii",),
        phase=(folder / "Phase.nii",),
        echo_times_s=(0.004, 0.008, 0.012),
        field_strength_t=7.0,
        phase_unit="full-range",
    )
    magnitude = np.asarray(nib.as_closest_canonical(nib.load(scan.magnitude[0])).dataobj)
    whole = np.ones(magnitude.shape[:3], dtype=bool)
    panels: list[Panel] = []
    for method in METHODS:
        wanted = ReconstructConfig(inversion=method)
        if method != "medi":
            wanted = replace(wanted, refinements=0)
        config = deepmir.Config(reconstruct=wanted)
        made = deepmir.reconstruct(scan, brain_mask=whole, config=config)
        panels.append((made.chimap.data, (-0.1, 0.1)))
    seen = [magnitude[..., -1], made.swi.data]
    ranges = [tuple(float(p) for p in np.percentile(image, (0.5, 99.5))) for image in seen]
    return [*zip(seen, ranges, strict=True), *panels], made.mask


def draw(panels: list[Panel], mask: np.ndarray, shares: tuple[float, ...], path: Path) -> None:
    """Draw the panels side by side, a row for each slice; front up, the right side on the left."""
    (box,) = ndimage.find_objects(mask.astype(np.uint8))
    slices = [int(box[2].start + share * (box[2].stop - box[2].start)) for share in shares]
    size = (2 * len(panels), 2 * len(slices) * mask.shape[1] / mask.shape[0])
    figure, axes = plt.subplots(len(slices), len(panels), figsize=size)
    for row, k in zip(axes, slices, strict=True):
        for axis, (image, (low, high)) in zip(row, panels, strict=True):
            axis.imshow(image[::-1, :, k].T, origin="lower", cmap="gray", vmin=low, vmax=high)
            axis.axis("off")
    figure.subplots_adjust(0, 0, 1, 1, 0.02, 0.02)
    figure.savefig(path, dpi=90)
    print(path)


if __name__ == "__main__":
    main()
