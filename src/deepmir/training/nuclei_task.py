"""Task of the nuclei part: boxes of simulated cases in, outlines of the nuclei out."""

import math
import signal
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from deepmir.config import SegmentConfig
from deepmir.errors import InputError
from deepmir.labels import REGION_BY_BASE
from deepmir.model.losses import classes_loss
from deepmir.model.predict import open_network
from deepmir.model.unet import UNet, build_network
from deepmir.model.weights import ONNX_FILES, Weights
from deepmir.preprocessing.nuclei import BASES, N_CLASSES
from deepmir.training.fit import Batch
from deepmir.training.nuclei_cases import (
    NucleiCase,
    NucleiSample,
    NucleiSampling,
    load_case,
    make_sample,
    prepare_case,
    whole_box,
)
from deepmir.training.patches import list_cases
from deepmir.training.prefetch import Prefetch
from deepmir.training.recipes import Recipe

_VALIDATION_SUBSETS = 2  # those that every case is seen with
_cases: dict[Path, NucleiCase] = {}  # of a worker process; filled as they are drawn
_Packed = tuple[npt.NDArray[np.float16], npt.NDArray[np.uint8]]


class NucleiTask:
    """Batches of patches, made by background processes."""

    def __init__(self, recipe: Recipe, boxes: "Boxes", *, workers: int = 1) -> None:
        self._recipe = recipe
        self._validation = boxes.validation
        optimisation = recipe.optimisation
        maker = _Maker(boxes.train, recipe.nuclei, optimisation.seed, optimisation.batch_size)
        pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start_worker)
        depth = max(recipe.schedule.prefetch, 2 * workers)
        self._ahead = Prefetch(pool, maker, depth=depth)

    def build(self) -> UNet:
        """Fresh nuclei network."""
        return build_network(self._recipe.network)

    def batch(self, step: int) -> Batch:
        """Batch of patches."""
        inputs, classes = self._ahead.get(step)
        return Batch(torch.from_numpy(inputs).float(), (torch.from_numpy(classes),))

    def missing(self, step: int) -> str | None:  # noqa: ARG002 - everything is there
        """Say that nothing is missing."""
        return None

    def no_validation(self) -> str | None:
        """Say that there are no cases of the validation heads; None where there are."""
        heads = ", ".join(map(str, self._recipe.validation_heads))
        return None if self._validation else f"there are no cases of heads {heads}"

    def loss(self, logits: tuple[Tensor, ...], batch: Batch) -> Tensor:
        """Cross-entropy and Dice; a level of half the resolution counts half."""
        total = torch.zeros((), device=logits[0].device)
        shares = [1 / 2**level for level in range(len(logits))]
        for level, (here, share) in enumerate(zip(logits, shares, strict=True)):
            coarser = (slice(None), *(slice(None, None, 2**level),) * 3)
            total = total + share * classes_loss(here, batch.targets[0][coarser])
        return cast(Tensor, total / sum(shares))

    def validate(self, network: nn.Module, device: torch.device) -> Mapping[str, float]:
        """Dice of each nucleus, of all, and what the anatomy part alone has, at 1 mm."""
        rows: list[dict[str, float]] = []
        for case in self._loaded_validation:
            for variant in range(min(_VALIDATION_SUBSETS, len(case.present))):
                sample = whole_box(case, variant)
                logits = network(sample.inputs[None].to(device))[0]
                rows.append(score_nuclei(logits.argmax(dim=0).cpu(), sample))
        names = rows[0] if rows else ()
        means = {name: _mean([row[name] for row in rows]) for name in names}
        return {name: mean for name, mean in means.items() if not math.isnan(mean)}

    @cached_property
    def _loaded_validation(self) -> list[NucleiCase]:
        return [load_case(path) for path in self._validation]

    def close(self) -> None:
        """End the background processes."""
        self._ahead.close()


def score_nuclei(predicted: Tensor, sample: NucleiSample) -> dict[str, float]:
    """Dice of each nucleus and their mean; beside it that of the anatomy part, its input."""
    coarse = sample.inputs[-len(BASES) :]
    none = (1 - coarse.sum(dim=0, keepdim=True)).clamp(min=0)
    before = torch.cat([none, coarse]).argmax(dim=0)
    names = [REGION_BY_BASE[base].name for base in BASES]
    dice = [_dice(predicted == n, sample.classes == n) for n in range(1, N_CLASSES)]
    earlier = [_dice(before == n, sample.classes == n) for n in range(1, N_CLASSES)]
    return {
        **dict(zip(names, dice, strict=True)),
        "nuclei": _mean(dice),
        "nuclei of the anatomy part": _mean(earlier),
    }


def _mean(values: list[float]) -> float:
    """Mean of those that are numbers."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _dice(first: Tensor, second: Tensor) -> float:
    both = int(first.sum()) + int(second.sum())
    return 2 * int((first & second).sum()) / both if both else float("nan")


# ---- where boxes come from --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Boxes:
    """Files of prepared cases."""

    train: tuple[Path, ...]
    validation: tuple[Path, ...]


def boxes_folder(out: Path, weights: Weights) -> Path:
    """Folder of a run's boxes: another anatomy part finds the nuclei elsewhere, so has its own."""
    return out / "boxes" / weights.manifest.files[ONNX_FILES["anatomy"]].sha256[:12]


def prepare_boxes(
    recipe: Recipe, cases: Path, out: Path, weights: Weights, *, workers: int = 1
) -> Boxes:
    """Cut the boxes of all cases of the recipe's heads into a run's folder; those there are kept.

    Raises
    ------
    InputError
        If there is no case of the training heads, or one cannot be read.
    OutputError
        If a box cannot be written.
    """
    groups = [list_cases(cases, heads) for heads in (recipe.train_heads, recipe.validation_heads)]
    if not groups[0]:
        raise InputError(
            f"{cases} has no case of heads {', '.join(map(str, recipe.train_heads))}; simulate "
            "some first (benchmarks/release_data.py)"
        )
    folder = boxes_folder(out, weights)
    kept = [{cases / name: folder / f"{name}.npz" for name in names} for names in groups]
    absent = [(folder, box) for group in kept for folder, box in group.items() if not box.exists()]
    if absent:
        preparer = _Preparer(weights, recipe.nuclei)
        with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start_worker) as pool:
            list(pool.map(preparer, absent))
    return Boxes(*(tuple(group.values()) for group in kept))


@dataclass(frozen=True, slots=True)
class _Preparer:
    weights: Weights
    sampling: NucleiSampling

    def __call__(self, paths: tuple[Path, Path]) -> None:
        anatomy = open_network(self.weights, "anatomy", SegmentConfig(device="cpu", threads=1))
        prepare_case(*paths, anatomy, sampling=self.sampling)


@dataclass(frozen=True, slots=True)
class _Maker:
    """Batch of a step, as small arrays that travel fast between processes."""

    paths: tuple[Path, ...]
    sampling: NucleiSampling
    seed: int
    batch_size: int

    def __call__(self, step: int) -> _Packed:
        samples = []
        for number in range(self.batch_size):
            rng = np.random.default_rng([self.seed, step, number])
            case = _loaded(self.paths[int(rng.integers(len(self.paths)))])
            samples.append(make_sample(case, rng, self.sampling))
        inputs = torch.stack([sample.inputs for sample in samples]).half().numpy()
        return inputs, torch.stack([sample.classes for sample in samples]).numpy()


def _start_worker() -> None:
    # Ctrl-C reaches the whole group; the parent decides when this process ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


def _loaded(path: Path) -> NucleiCase:
    if path not in _cases:
        _cases[path] = load_case(path)
    return _cases[path]
