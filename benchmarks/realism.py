"""How simulated scans differ from real ones: susceptibility maps, veins, noise, sizes of findings.

    python benchmarks/realism.py --shared FOLDER --anatomies FOLDER --out work/realism

FOLDER of `--shared` holds ``qsm_real`` and ``priors.json``; `--anatomies` holds finished heads
(benchmarks/release_data.py makes them). Heads are simulated on the grid of the real maps
(0.94 × 0.94 × 3 mm, 3 T), once each and kept in `--out`; both kinds of map are measured by the same
functions. Prints tables as Markdown, writes ``realism.json``, and pictures side by side for your
own eyes: the real maps may not be published. Only N001, N002, N003 and N007 are read.

``--discriminate`` also trains a small network to tell patches of simulated maps from real ones
(benchmarks/discriminator.py; needs torch; minutes).
"""

import argparse
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage, stats

from deepmir.physics.kspace import AxisFilter
from deepmir.reconstruction.run import ChimapSettings, reconstruct_chimap
from deepmir.simulation.anatomy import load_anatomy
from deepmir.simulation.lesions import Counts, training_counts
from deepmir.simulation.person import SimulatedPerson, simulate_person
from deepmir.simulation.protocol import Protocol, mesa_like

REAL = ("N001", "N002", "N003", "N007")  # the other four are kept for final figures
SPACING_MM = (0.94, 0.94, 3.0)
RIM_MM = 6.0  # what is called interior keeps this distance from the map's edge
NUCLEI: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {  # real labels, simulated ones
    "caudate": ((1, 2), (11, 50)),
    "putamen": ((3, 4), (12, 51)),
    "pallidum": ((5, 6), (13, 52)),
    "nigra": ((7, 8), (1001, 1002)),
    "red nucleus": ((9, 10), (1003, 1004)),
}
COMPONENT_MM3 = (5.0, 300.0)
THRESHOLDS_PPM = (0.15, 0.25, 0.40)
BANDS_PER_MM = ((0.03, 0.08), (0.08, 0.16), (0.16, 0.30), (0.30, 0.50))
WINDOW = 32  # voxels in plane, of the power spectrum

FloatMap = npt.NDArray[np.floating]
BoolMap = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Map:
    """One susceptibility map with its mask and its nuclei."""

    name: str
    chi_ppm: FloatMap  # (I, J, K), 0 outside the mask
    mask: BoolMap
    nuclei: dict[str, BoolMap]


def main() -> None:
    """Measure both, print the tables, write JSON and pictures."""
    options = read_options()
    options.out.mkdir(parents=True, exist_ok=True)
    real = [real_map(options.shared, name) for name in REAL]
    persons = [simulated(options, head) for head in options.heads]
    made = [map_of(person) for person in persons]
    table = {
        "real": [measures(one) for one in real],
        "simulated": [measures(one) for one in made],
        "sizes": sizes(
            [one for n in range(options.size_persons) for one in sized_microbleeds(options, n)],
            json.loads((options.shared / "priors.json").read_text()),
        ),
    }
    print(markdown(table["real"], table["simulated"]))
    print(size_markdown(table["sizes"]))
    for one in (*real, *made):
        save_projection(one, options.out / f"mip_{one.name}.png")
    if options.discriminate:
        from discriminator import tell_apart  # noqa: PLC0415 - needs torch

        table["discriminator"] = tell_apart(real, made, SPACING_MM)
        print(json.dumps(table["discriminator"], indent=1))
    (options.out / "realism.json").write_text(json.dumps(table, indent=1), encoding="utf-8")


def read_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--anatomies", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--heads", type=int, nargs="+", default=[1, 4, 7, 10])
    parser.add_argument("--seed", type=int, default=500)
    parser.add_argument(
        "--size-persons", type=int, default=8, help="persons whose microbleeds are sized"
    )
    parser.add_argument("--again", action="store_true", help="simulate anew")
    parser.add_argument("--discriminate", action="store_true")
    return parser.parse_args()


# ---- maps ----------------------------------------------------------------------------------


def real_map(shared: Path, name: str) -> Map:
    """Read a real map; the voxel size in its header is a dummy."""
    folder = shared / "qsm_real"
    chi = np.asarray(nib.load(folder / "QSM" / f"{name}_QSM.nii.gz").dataobj, dtype=np.float32)
    labels = np.asarray(
        nib.load(folder / "Label" / f"{name}_Q_QSM_SyNAggro_moved_ROIs.nii.gz").dataobj
    )
    nuclei = {nucleus: np.isin(labels, real) for nucleus, (real, _) in NUCLEI.items()}
    return Map(name, chi, ndimage.binary_fill_holes(chi != 0), nuclei)


def protocol_like_real() -> Protocol:
    """Put the `mesa-like` protocol on the grid of the real maps, filtered as they are."""
    return replace(
        mesa_like(),
        name="like-real",
        spacing_mm=SPACING_MM,
        detailed_people=True,
        k_space_filters=(None, AxisFilter(1.0, 0.3), AxisFilter(0.72, 0.6)),
        chimap=ChimapSettings(method="tkd", strength=0.2, largest_sphere_mm=5.0, erosion_mm=2.0),
    )


def simulated(options: argparse.Namespace, head: int) -> dict[str, npt.NDArray[np.generic]]:
    """One simulated person, made once and kept."""
    path = options.out / f"head_{head:02d}_{options.seed}.npz"
    if options.again or not path.exists():
        anatomy = load_anatomy(options.anatomies / f"head_{head:02d}.npz")
        person = simulate_person(
            anatomy,
            seed=options.seed + head,
            protocol=protocol_like_real(),
            counts=training_counts,
        )
        np.savez_compressed(path, **arrays_of(person))
        print(f"simulated head {head}", flush=True)
    with np.load(path) as stored:
        return {"name": np.array(f"head {head}"), **stored}


def arrays_of(person: SimulatedPerson) -> dict[str, npt.NDArray[np.generic]]:
    """Keep what is compared: maps without the deposits, the truth's sizes with them."""
    scan = person.acquisition
    chi, mask = reconstruct_chimap(scan.echoes_without_deposits, scan.brain, person.protocol.chimap)
    return {
        "chi": chi.astype(np.float32),
        "mask": mask,
        "labels": scan.labels.astype(np.uint16),
        "veins": scan.vein_fraction.astype(np.float16),
        "swi": person.swi.astype(np.float32),
        "brain": scan.brain,
        "findings": person.findings,
    }


def map_of(stored: dict[str, npt.NDArray[np.generic]]) -> Map:
    """Bring a stored person into the form in which real maps are measured."""
    nuclei = {nucleus: np.isin(stored["labels"], made) for nucleus, (_, made) in NUCLEI.items()}
    return Map(str(stored["name"]), stored["chi"], stored["mask"].astype(bool), nuclei)


# ---- measures ------------------------------------------------------------------------------


def measures(one: Map) -> dict[str, float]:
    """Everything that a map of unknown truth can tell."""
    inside = ndimage.distance_transform_edt(one.mask, sampling=SPACING_MM) > RIM_MM
    chi = one.chi_ppm - float(np.mean(one.chi_ppm[one.mask]))
    values = chi[inside]
    found: dict[str, float] = {
        f"percentile {p:g}": float(np.percentile(values, p))
        for p in (0.1, 1, 5, 25, 50, 75, 95, 99, 99.9)
    }
    found |= {"least": float(values.min()), "greatest": float(values.max())}
    found["noise in plane"] = noise_ppm(chi, inside, axis=0)
    found["noise across slices"] = noise_ppm(chi, inside, axis=2)
    found |= texture_measures(chi, inside)
    for nucleus, where in one.nuclei.items():
        found[nucleus] = float(chi[where & one.mask].mean())
        found[f"spread in {nucleus}"] = float(chi[where & one.mask].std())
    nuclei = ndimage.binary_dilation(np.any(list(one.nuclei.values()), axis=0), iterations=2)
    found |= vein_measures(chi, inside & ~nuclei)
    for threshold in THRESHOLDS_PPM:
        found[f"compact above {threshold:g}"] = compact_components(chi > threshold, inside)
    found[f"compact below -{THRESHOLDS_PPM[0]:g}"] = compact_components(
        chi < -THRESHOLDS_PPM[0], inside
    )
    return found | spectrum(chi, inside)


def noise_ppm(chi: FloatMap, inside: BoolMap, *, axis: int) -> float:
    """Robust standard deviation of the differences of neighbours."""
    near = np.take(inside, range(1, inside.shape[axis]), axis) & np.take(
        inside, range(inside.shape[axis] - 1), axis
    )
    difference = np.diff(chi, axis=axis)[near]
    return float(1.4826 * np.median(np.abs(difference - np.median(difference))) / np.sqrt(2))


def texture_measures(chi: FloatMap, inside: BoolMap) -> dict[str, float]:
    """Describe what smoothing by 2 mm in plane takes away: how neighbours go along, skewness."""
    smooth = ndimage.gaussian_filter(chi, [2.0 / step for step in (*SPACING_MM[:2], np.inf)])
    fine = np.where(inside, chi - smooth, 0)
    values = fine[inside]
    return {
        "texture, next along I": neighbours(fine, inside, axis=0, step=1),
        "texture, next along J": neighbours(fine, inside, axis=1, step=1),
        "texture, next slice": neighbours(fine, inside, axis=2, step=1),
        "texture, two slices apart": neighbours(fine, inside, axis=2, step=2),
        "texture, skewness": float(stats.skew(values)),
    }


def neighbours(image: FloatMap, inside: BoolMap, *, axis: int, step: int) -> float:
    """Correlation of voxels that are `step` apart along an axis, where the image is not extreme."""
    n = image.shape[axis]
    here, there = np.arange(n - step), np.arange(step, n)
    both = np.take(inside, here, axis) & np.take(inside, there, axis)
    one, other = np.take(image, here, axis)[both], np.take(image, there, axis)[both]
    return float(stats.spearmanr(one, other).statistic)


def vein_measures(chi: FloatMap, where: BoolMap) -> dict[str, float]:
    """Veins as bright ridges: voxels that rise above the median of their neighbourhood in plane."""
    around = ndimage.median_filter(chi, (9, 9, 1))
    rise = (chi - around)[where]
    veins = rise > 0.05
    return {
        "vein share %": 100 * float(veins.mean()),
        "vein rise, median": float(np.median(rise[veins])),
        "vein rise, 95 %": float(np.percentile(rise[veins], 95)),
        "dark share %": 100 * float((rise < -0.05).mean()),
    }


def compact_components(above: BoolMap, inside: BoolMap) -> int:
    """Count components of a microbleed's size that are wider than a third of their length."""
    components, count = ndimage.label(above & inside, structure=np.ones((3, 3, 3)))
    volume = float(np.prod(SPACING_MM))
    total = 0
    for number, box in enumerate(ndimage.find_objects(components), start=1):
        at = np.argwhere(components[box] == number) * SPACING_MM
        if COMPONENT_MM3[0] <= len(at) * volume <= COMPONENT_MM3[1]:
            total += extent_ratio(at) > 1 / 3
    return int(total) if count else 0


def extent_ratio(at_mm: FloatMap) -> float:
    """Second over first axis of a point cloud, voxels' own width included."""
    own = np.diag(np.array(SPACING_MM) ** 2 / 12)
    spread = np.cov(at_mm.T, bias=True) + own if len(at_mm) > 1 else own
    _, middle, greatest = np.sqrt(np.linalg.eigvalsh(spread))
    return float(middle / greatest)


def spectrum(chi: FloatMap, inside: BoolMap) -> dict[str, float]:
    """Root of the power in bands of spatial frequency in plane, over windows inside the brain."""
    taper = np.outer(*(np.hanning(WINDOW),) * 2)
    frequency = np.hypot(*np.meshgrid(*(np.fft.fftfreq(WINDOW, SPACING_MM[0]),) * 2))
    powers = [
        np.abs(np.fft.fft2((patch - patch.mean()) * taper)) ** 2 for patch in windows(chi, inside)
    ]
    power = np.mean(powers, axis=0) / (taper**2).sum() / WINDOW**2
    return {
        f"power {low:g} to {high:g} /mm": 1000
        * float(np.sqrt(power[(frequency >= low) & (frequency < high)].sum()))
        for low, high in BANDS_PER_MM
    }


def windows(chi: FloatMap, inside: BoolMap) -> Iterable[FloatMap]:
    """Square windows in plane that lie inside the brain by nine tenths."""
    half = WINDOW // 2
    for i in range(0, chi.shape[0] - WINDOW, half):
        for j in range(0, chi.shape[1] - WINDOW, half):
            for k in range(0, chi.shape[2], 2):
                box = (slice(i, i + WINDOW), slice(j, j + WINDOW), k)
                if inside[box].mean() > 0.9:
                    yield np.where(inside[box], chi[box], chi[box][inside[box]].mean())


@dataclass(frozen=True, slots=True)
class Sized:
    """One microbleed that was drawn as in a cohort, and its extent where a rater can see it."""

    moment_ppm_mm3: float
    place: str
    slice_mm: float
    extent_mm3: float | None


def sized_microbleeds(options: argparse.Namespace, number: int) -> list[Sized]:
    """Sizes of one person's microbleeds, with a protocol drawn at random; made once and kept.

    Every person has 25, so that few persons are enough: strengths and places are a cohort's.
    """
    path = options.out / f"sizes_{options.seed}_{number:02d}.json"
    if options.again or not path.exists():
        head = options.heads[number % len(options.heads)]
        person = simulate_person(
            load_anatomy(options.anatomies / f"head_{head:02d}.npz"),
            seed=options.seed + 1000 + number,
            counts=lambda _: Counts(cmb=25, iron=0, calcification=0, mixed=0),
        )
        rows = [
            Sized(
                deposit.moment_ppm_mm3,
                deposit.place,
                person.protocol.spacing_mm[2],
                shown.extent_mm3 if shown is not None and shown.seen else None,
            )
            for deposit, shown in zip(person.deposits, person.visibility, strict=True)
        ]
        path.write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")
        print(f"sized person {number + 1}", flush=True)
    return [Sized(**row) for row in json.loads(path.read_text(encoding="utf-8"))]


def sizes(found: list[Sized], priors: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Quantiles of the extents of microbleeds, as a rater would draw them, against the priors."""
    seen = np.array([one.extent_mm3 for one in found if one.extent_mm3 is not None])
    wanted = priors["volume_mm3"]
    return {
        "real": {share: wanted[share] for share in wanted},
        "simulated": {share: round(float(np.quantile(seen, float(share))), 1) for share in wanted},
        "counts": {"drawn": len(found), "seen": len(seen)},
    }


# ---- tables and pictures -------------------------------------------------------------------


def markdown(real: list[dict[str, float]], made: list[dict[str, float]]) -> str:
    """One row a measure: range over the real maps, range over the simulated ones."""
    rows = ["| measure | real | simulated |", "|---|---|---|"]
    rows += [f"| {name} | {span(real, name)} | {span(made, name)} |" for name in real[0]]
    return "\n".join(rows) + "\n"


def span(found: list[dict[str, float]], name: str) -> str:
    """Least and greatest of one measure."""
    values = [one[name] for one in found]
    digits: Callable[[float], str] = lambda x: f"{x:.3g}" if abs(x) >= 1 else f"{x:.3f}"  # noqa: E731
    return f"{digits(min(values))} to {digits(max(values))}"


def size_markdown(found: dict[str, dict[str, float]]) -> str:
    """Quantiles side by side."""
    rows = ["| quantile of volume, mm³ | real | simulated |", "|---|---|---|"]
    rows += [
        f"| {share} | {found['real'][share]} | {found['simulated'][share]} |"
        for share in found["real"]
    ]
    return "\n".join(rows) + f"\n\n{found['counts']}\n"


def save_projection(one: Map, path: Path) -> None:
    """Maximum over 12 mm slabs, four of them side by side, −0.05 to 0.25 ppm."""
    filled = np.flatnonzero(one.mask.any(axis=(0, 1)))
    centres = np.linspace(filled[0], filled[-1], 7)[2:6].round().astype(int)
    slabs = [np.where(one.mask, one.chi_ppm, 0)[:, :, k - 2 : k + 2].max(axis=2) for k in centres]
    gray = np.clip((np.concatenate([slab.T[::-1] for slab in slabs], axis=1) + 0.05) / 0.3, 0, 1)
    Image.fromarray((255 * gray).astype(np.uint8)).save(path)


if __name__ == "__main__":
    main()
