"""Intensities of simulated against real SWI, on the one real block that can be compared.

    python benchmarks/realism_swi.py --shared FOLDER --anatomies FOLDER --out work/realism

``gre_7t_block`` of `--shared` is a crop of a brain at 7 T (24 × 24 × 41 mm, 0.47 × 0.47 × 1 mm,
echoes at 4, 8 and 12 ms; ROMEO's test data, MIT). Its k-space is cropped to 0.6 mm in plane, a head
is simulated on that grid with the same echoes, and blocks of that size are cut out of its brain.
Both go through the same SWI, are divided by their median, and give percentiles: the low ones say
how dark veins are. Prints Markdown and writes ``realism_swi.json``.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import numpy.typing as npt

from deepmir.reconstruction.run import GradientEchoes, SwiSettings, reconstruct_swi
from deepmir.simulation.acquire import Acquisition, acquire
from deepmir.simulation.anatomy import load_anatomy
from deepmir.simulation.lesions import Counts
from deepmir.simulation.protocol import Protocol, mesa_like
from deepmir.simulation.scene import build_scene, sample_variation

ECHO_TIMES_S = (0.004, 0.008, 0.012)
BLOCK = (40, 40, 41)
SPACING_MM = (0.6, 0.6, 1.0)
SWI = SwiSettings(echo=2, phase="unwrapped", filter_size=64.0)
PERCENTILES = (0.1, 0.5, 1, 2, 5, 25, 75, 95, 99)
LEAST_BRAIN = 0.98
N_BLOCKS = 60
N_SHOWN, PROJECTED = 6, 8

ComplexMap = npt.NDArray[np.complexfloating]


def main() -> None:
    """Measure both, print and write."""
    options = read_options()
    real = percentiles(real_block(options.shared / "gre_7t_block"))
    made = simulated_blocks(options.anatomies / f"head_{options.head:02d}.npz", options.seed)
    rows = np.array([percentiles(block) for block in made])
    print(markdown(real, rows))
    if options.picture:
        draw([real_block(options.shared / "gre_7t_block"), *made[: N_SHOWN - 1]], options.picture)
    options.out.mkdir(parents=True, exist_ok=True)
    result = {"percentiles": PERCENTILES, "real": real.tolist(), "simulated": rows.tolist()}
    (options.out / "realism_swi.json").write_text(json.dumps(result, indent=1), encoding="utf-8")


def read_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--anatomies", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--head", type=int, default=1)
    parser.add_argument("--seed", type=int, default=700)
    return parser.parse_args()


def real_block(folder: Path) -> GradientEchoes:
    """Read the real block, at 0.6 mm in plane."""
    magnitude, phase = (
        np.asarray(nib.load(folder / f"{name}.nii").dataobj, dtype=np.float32)
        for name in ("Mag", "Phase")
    )
    turns = phase / np.abs(phase).max() * np.pi
    echoes = [magnitude[..., n] * np.exp(1j * turns[..., n]) for n in range(len(ECHO_TIMES_S))]
    return as_echoes([to_grid(echo.astype(np.complex64)) for echo in echoes])


def to_grid(echo: ComplexMap) -> ComplexMap:
    """Keep the middle of k-space in plane: 51 voxels of 0.47 mm become 40 of 0.6 mm."""
    spectrum = np.fft.fftshift(np.fft.fftn(echo, axes=(0, 1)), axes=(0, 1))
    start = [(n - wanted) // 2 + (n - wanted) % 2 for n, wanted in zip(echo.shape, BLOCK)]  # noqa: B905 - in plane
    kept = spectrum[start[0] : start[0] + BLOCK[0], start[1] : start[1] + BLOCK[1]]
    return np.fft.ifftn(np.fft.ifftshift(kept, axes=(0, 1)), axes=(0, 1)).astype(np.complex64)


def as_echoes(signals: list[ComplexMap]) -> GradientEchoes:
    """Echoes of one block."""
    return GradientEchoes(
        signals=tuple(signals),
        echo_times_s=ECHO_TIMES_S,
        b0_t=7.0,
        spacing_mm=SPACING_MM,
        b0_direction=(0.0, 0.0, 1.0),
    )


def protocol_of_block() -> Protocol:
    """Put the `mesa-like` protocol at 7 T on the block's grid and echoes."""
    return replace(
        mesa_like(),
        name="like-7t-block",
        b0_t=7.0,
        spacing_mm=SPACING_MM,
        echo_times_s=ECHO_TIMES_S,
        repetition_time_s=0.031,
        swi=SWI,
        detailed_people=True,
    )


def simulated_blocks(anatomy: Path, seed: int) -> list[GradientEchoes]:
    """Blocks of one simulated brain without deposits, of the real block's size."""
    rng = np.random.default_rng(seed)
    protocol = protocol_of_block()
    nothing = Counts(cmb=0, iron=0, calcification=0, mixed=0)
    variation = sample_variation(rng, signs_of_age=True)
    scene = build_scene(load_anatomy(anatomy), protocol, variation, nothing, rng)
    scan = acquire(scene, protocol, rng)
    return [as_echoes(block) for block in cut_blocks(scan, rng)]


def cut_blocks(scan: Acquisition, rng: np.random.Generator) -> list[list[ComplexMap]]:
    """Blocks at random places that lie inside the brain."""
    blocks: list[list[ComplexMap]] = []
    for _ in range(100 * N_BLOCKS):
        low = [int(rng.integers(0, n - size)) for n, size in zip(scan.brain.shape, BLOCK)]  # noqa: B905
        box = tuple(slice(at, at + size) for at, size in zip(low, BLOCK, strict=True))
        if scan.brain[box].mean() >= LEAST_BRAIN:
            blocks.append([signal[box] for signal in scan.echoes.signals])
        if len(blocks) == N_BLOCKS:
            break
    return blocks


def percentiles(echoes: GradientEchoes) -> npt.NDArray[np.float64]:
    """Percentiles of the SWI over its median; three voxels at the block's edge are left out."""
    return np.asarray(np.percentile(relative_swi(echoes), PERCENTILES))


def relative_swi(echoes: GradientEchoes) -> npt.NDArray[np.float32]:
    """SWI over its median, without the three outermost voxels."""
    swi = reconstruct_swi(echoes, SWI)[3:-3, 3:-3, 3:-3]
    return np.asarray(swi / np.median(swi))


def draw(blocks: list[GradientEchoes], path: Path) -> None:
    """Draw a slice, and the minimum of some slices, of the real block and of simulated ones."""
    figure, axes = plt.subplots(2, len(blocks), figsize=(2 * len(blocks), 4.2))
    for number, (column, block) in enumerate(zip(axes.T, blocks, strict=True)):
        swi = relative_swi(block)
        middle = swi.shape[2] // 2
        projection = swi[..., middle : middle + PROJECTED].min(axis=2)
        for axis, image in zip(column, (swi[..., middle], projection), strict=True):
            axis.imshow(image.T, origin="lower", cmap="gray", vmin=0, vmax=1.4)
            axis.axis("off")
        column[0].set_title("real" if number == 0 else "simulated")
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def markdown(real: npt.NDArray[np.float64], made: npt.NDArray[np.float64]) -> str:
    """One row a percentile: the real block, median and 5 to 95 % of the simulated ones."""
    rows = ["| percentile of SWI / median | real block | simulated blocks |", "|---|---|---|"]
    for n, share in enumerate(PERCENTILES):
        low, middle, high = np.percentile(made[:, n], (5, 50, 95))
        rows.append(f"| {share:g} | {real[n]:.2f} | {middle:.2f} ({low:.2f} to {high:.2f}) |")
    return "\n".join(rows) + f"\n\n{len(made)} simulated blocks\n"


if __name__ == "__main__":
    main()
