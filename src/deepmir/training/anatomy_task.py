"""Task of the anatomy part: synthetic heads and simulated cases in, regions and side out."""

import signal
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from multiprocessing import get_context
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from deepmir.errors import InputError
from deepmir.labels import NUCLEUS_BASES, REGIONS
from deepmir.model.losses import anatomy_loss
from deepmir.model.unet import UNet, build_anatomy_network
from deepmir.training.anatomy_cases import CoarseCase, load_coarse_case, make_case_sample
from deepmir.training.anatomy_samples import (
    AnatomySample,
    AnatomySampling,
    Head,
    load_head,
    make_sample,
)
from deepmir.training.fit import Batch
from deepmir.training.fresh import anatomy_paths
from deepmir.training.prefetch import Prefetch
from deepmir.training.recipes import Recipe

_VALIDATION_SUBSETS = ("T2w+swi+Chimap", "swi+Chimap", "T2w", "Chimap")
_VALIDATION_SEED = 20_000_000
_VALIDATION_CASES = 6
_heads: list[Head] = []  # of a worker process; filled once when it starts
_cases: dict[Path, CoarseCase] = {}  # of a worker process; filled as they are drawn
_Packed = tuple[npt.NDArray[np.generic], ...]


@dataclass(frozen=True, slots=True)
class AnatomyCases:
    """Simulated cases of the findings part that a share of the samples is made of."""

    train: tuple[Path, ...]
    validation: tuple[Path, ...]
    share: float  # of all samples, 0 to 1


NO_CASES = AnatomyCases((), (), 0.0)


@dataclass(frozen=True, slots=True)
class Source:
    """Where samples come from: enough to make any of them in another process."""

    paths: tuple[Path, ...]
    sampling: AnatomySampling
    seed: int
    device: str
    """Where samples of heads are made, as torch names it."""
    cases: AnatomyCases = NO_CASES


class AnatomyTask:
    """Batches of one synthetic head, made by background processes on the device of the run."""

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        *,
        cases: AnatomyCases = NO_CASES,
        device: str = "cpu",
        workers: int = 1,
    ) -> None:
        self._recipe = recipe
        self._folder = folder
        optimisation = recipe.optimisation
        self.source = Source(
            head_paths(folder, recipe.train_heads),
            recipe.anatomy,
            optimisation.seed,
            device,
            cases,
        )
        if optimisation.batch_size != 1:
            raise InputError(
                "anatomy samples differ in shape, so their batch size is 1, not "
                f"{optimisation.batch_size}; change the recipe"
            )
        pool = ProcessPoolExecutor(
            workers, get_context("spawn"), initializer=_start_worker, initargs=(self.source,)
        )
        depth = max(recipe.schedule.prefetch, 2 * workers)
        self._ahead = Prefetch(pool, _Maker(self.source), depth=depth)

    def build(self) -> UNet:
        """Fresh anatomy network."""
        return build_anatomy_network(self._recipe.network)

    def batch(self, step: int) -> Batch:
        """Batch of one head."""
        return _as_batch(self._ahead.get(step))

    def missing(self, step: int) -> str | None:  # noqa: ARG002 - everything is there
        """Say that nothing is missing."""
        return None

    def no_validation(self) -> str | None:
        """Say that there are no validation heads, nor cases of them; None where there are."""
        heads = self._recipe.validation_heads
        if anatomy_paths(self._folder, heads) or self.source.cases.validation:
            return None
        return f"there are none of heads {', '.join(map(str, heads))}"

    def loss(self, logits: tuple[Tensor, ...], batch: Batch) -> Tensor:
        """Cross-entropy, Dice and side; a level of half the resolution counts half.

        Without the coarser levels' own losses hardly any gradient reaches the deep levels, and
        the nuclei stay unlearned for a thousand steps (docs/decisions.md).
        """
        shares = [1 / 2**level for level in range(len(logits))]
        total: Tensor = torch.zeros((), device=logits[0].device)
        for level, (here, share) in enumerate(zip(logits, shares, strict=True)):
            coarser = (slice(None), *(slice(None, None, 2**level),) * 3)
            classes, right, paired = (target[coarser] for target in batch.targets)
            total = total + share * anatomy_loss(here, classes, right=right, paired=paired)
        return cast(Tensor, total / sum(shares))

    def validate(self, network: nn.Module, device: torch.device) -> Mapping[str, float]:
        """Dice of brain, of all regions and of the nuclei, and right sides, per subset."""
        scores: dict[str, list[dict[str, float]]] = {}
        for subset, batch in self.validation_batches:
            here = batch.to(device)
            scores.setdefault(subset, []).append(score_anatomy(network(here.inputs), here))
        means: dict[str, float] = {}
        for subset, rows in scores.items():
            for name in rows[0]:
                means[f"{name} {subset}"] = float(np.mean([row[name] for row in rows]))
        means["regions"] = float(np.mean([v for n, v in means.items() if n.startswith("regions ")]))
        return means

    @cached_property
    def validation_batches(self) -> tuple[tuple[str, Batch], ...]:
        """Fixed samples of the validation heads and some of their cases, once for every subset."""
        heads = anatomy_paths(self._folder, self._recipe.validation_heads)
        cases = self.source.cases.validation[:_VALIDATION_CASES]
        makers = [("", partial(make_sample, load_head(path))) for path in heads]
        makers += [
            (" of cases", partial(make_case_sample, load_coarse_case(path))) for path in cases
        ]
        made = []
        for kind, make in makers:
            for number, subset in enumerate(_VALIDATION_SUBSETS):
                sampling = replace(self._recipe.anatomy, subsets=((subset, 1.0),), deep_share=0.0)
                rng = np.random.default_rng([_VALIDATION_SEED, number])
                made.append((subset + kind, _as_batch(_packed(make(rng, sampling)))))
        return tuple(made)

    def close(self) -> None:
        """End the background processes."""
        self._ahead.close()


def head_paths(folder: Path, heads: tuple[int, ...]) -> tuple[Path, ...]:
    """Files ``head_XX.npz`` of some heads that are there.

    Raises
    ------
    InputError
        If none of them is.
    """
    paths = tuple(folder / f"head_{number:02d}.npz" for number in heads)
    there = tuple(path for path in paths if path.is_file())
    if not there:
        raise InputError(f"{folder} has none of {', '.join(path.name for path in paths)}")
    return there


def score_anatomy(logits: Tensor, batch: Batch) -> dict[str, float]:
    """Dice of brain, regions (mean of those present) and nuclei, and share of right sides."""
    classes, right, paired = batch.targets
    n_classes = len(REGIONS) + 2
    predicted = logits[:, :n_classes].argmax(dim=1)
    both = torch.bincount(
        (classes.long() * n_classes + predicted).flatten(), minlength=n_classes**2
    ).reshape(n_classes, n_classes)
    overlap, sizes = both.diagonal().double(), (both.sum(0) + both.sum(1)).double()
    present = both.sum(1) > 0
    dice = (2 * overlap / sizes.clamp(min=1)).cpu().numpy()
    regions = [n + 1 for n in range(len(REGIONS)) if bool(present[n + 1])]
    nuclei = [n for n in regions if REGIONS[n - 1].base in NUCLEUS_BASES]
    brain = 2 * both[1:, 1:].sum() / (both[1:].sum() + both[:, 1:].sum()).clamp(min=1)
    side = ((logits[:, n_classes] > 0) == right)[paired]
    return {
        "brain": float(brain),
        "regions": float(np.mean(dice[regions])) if regions else 0.0,
        "nuclei": float(np.mean(dice[nuclei])) if nuclei else 0.0,
        "side": float(side.float().mean()) if side.numel() else 1.0,
    }


@dataclass(frozen=True, slots=True)
class _Maker:
    """Sample of a step, as small arrays that travel fast between processes."""

    source: Source

    def __call__(self, step: int) -> _Packed:
        source, heads = self.source, _loaded_heads(self.source)
        rng = np.random.default_rng([source.seed, step])
        if source.cases.share and rng.random() < source.cases.share:
            case = _loaded_case(source.cases.train[int(rng.integers(len(source.cases.train)))])
            sample = make_case_sample(case, rng, source.sampling)
        else:
            sample = make_sample(heads[int(rng.integers(len(heads)))], rng, source.sampling)
        return _packed(replace(sample, inputs=sample.inputs.half()))


def _start_worker(source: Source) -> None:
    # Ctrl-C reaches the whole group; the parent decides when this process ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    _loaded_heads(source)


def _loaded_heads(source: Source) -> list[Head]:
    if [head.name for head in _heads] != [path.stem for path in source.paths]:
        device = torch.device(source.device)
        _heads[:] = [load_head(path).to(device) for path in source.paths]
    return _heads


def _loaded_case(path: Path) -> CoarseCase:
    if path not in _cases:
        _cases[path] = load_coarse_case(path)
    return _cases[path]


def _packed(sample: AnatomySample) -> _Packed:
    """Fields of a sample in their order; NumPy's arrays travel through a pipe as they are."""
    return tuple(getattr(sample, field.name).cpu().numpy() for field in fields(AnatomySample))


def _as_batch(packed: _Packed) -> Batch:
    inputs, *targets = (torch.from_numpy(array[None]) for array in packed)
    return Batch(inputs.float(), tuple(targets))
