"""A small network that tells patches of simulated susceptibility maps from real ones.

Part of benchmarks/realism.py (``--discriminate``). The better it does, the less the simulation
looks like the scanner; what it is given says where the difference lies:

- ``as is``: patches in ppm, clipped at ±0.3;
- ``coarse``: smoothed by 2 mm in plane, which leaves shapes and regional contrast;
- ``fine``: what that smoothing took away, which leaves noise, ringing and small vessels;
- ``fine, one scale``: the same with every patch divided by its own spread, which leaves texture;
- ``statistics``: five numbers of each patch, no network: its spread, range and gradients.

Persons are split: each is judged by a network that never saw it, two folds. 0.5 cannot be told
apart, 1.0 always.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage, stats

SIZE = (32, 32, 4)
PATCHES = 160  # a person
STEPS, BATCH, RATE = 220, 64, 2e-3

FloatMap = npt.NDArray[np.floating]


class MapLike(Protocol):
    """What is needed of a map of benchmarks/realism.py."""

    chi_ppm: FloatMap
    mask: npt.NDArray[np.bool_]


def tell_apart(
    real: Sequence[MapLike], made: Sequence[MapLike], spacing_mm: tuple[float, float, float]
) -> dict[str, float]:
    """Area under the curve of real against simulated patches, for each view of them."""
    rng = np.random.default_rng(0)
    views: dict[str, Callable[[FloatMap], FloatMap]] = {
        "as is": lambda patch: patch,
        "coarse": lambda patch: smoothed(patch, spacing_mm),
        "fine": lambda patch: patch - smoothed(patch, spacing_mm),
        "fine, one scale": lambda patch: one_scale(patch - smoothed(patch, spacing_mm)),
    }
    persons = [(patches(one, rng), 1.0) for one in real]
    persons += [(patches(one, rng), 0.0) for one in made]
    found = {
        name: round(cross_validated(persons, view, fit_network), 3) for name, view in views.items()
    }
    found["statistics"] = round(cross_validated(persons, statistics, fit_line), 3)
    return found


def patches(one: MapLike, rng: np.random.Generator) -> FloatMap:
    """Draw patches (n, I, J, K) that the mask fills by nine tenths; mean taken off, ±0.3 ppm."""
    share = ndimage.uniform_filter(one.mask.astype(np.float32), SIZE)
    half = [n // 2 for n in SIZE]
    inner = tuple(slice(h, n - h) for h, n in zip(half, one.mask.shape, strict=True))
    centres = np.argwhere(share[inner] > 0.9) + half
    drawn = []
    for centre in centres[rng.choice(len(centres), PATCHES)]:
        box = tuple(slice(c - h, c - h + n) for c, h, n in zip(centre, half, SIZE, strict=True))
        patch = np.where(one.mask[box], one.chi_ppm[box], 0)
        if rng.random() < 0.5:
            patch = patch[::-1]  # sides are not what is asked
        drawn.append(np.clip(patch - patch.mean(), -0.3, 0.3))
    return np.stack(drawn).astype(np.float32)


def smoothed(patch: FloatMap, spacing_mm: tuple[float, float, float]) -> FloatMap:
    """Gaussian of 2 mm in plane, for a stack of patches."""
    return ndimage.gaussian_filter(patch, (0, 2 / spacing_mm[0], 2 / spacing_mm[1], 0))


def one_scale(patch: FloatMap) -> FloatMap:
    """Give every patch of a stack the same robust spread."""
    return 0.02 * patch / np.maximum(np.median(np.abs(patch), axis=(1, 2, 3), keepdims=True), 1e-6)


def statistics(stack: FloatMap) -> FloatMap:
    """Five numbers (n, 5) of each patch."""
    flat = stack.reshape(len(stack), -1)
    rows = [
        flat.std(axis=1),
        np.percentile(flat, 99, axis=1),
        np.percentile(flat, 1, axis=1),
        np.abs(np.diff(stack, axis=1)).mean(axis=(1, 2, 3)),
        np.abs(np.diff(stack, axis=3)).mean(axis=(1, 2, 3)),
    ]
    return np.log(np.abs(np.stack(rows, axis=1)) + 1e-6)


Fit = Callable[[FloatMap, FloatMap], Callable[[FloatMap], FloatMap]]


def cross_validated(
    persons: Sequence[tuple[FloatMap, float]], view: Callable[[FloatMap], FloatMap], fit: Fit
) -> float:
    """Mean area under the curve over two folds of persons."""
    areas = []
    for fold in range(2):
        train = [p for n, p in enumerate(persons) if n % 2 != fold]
        test = [p for n, p in enumerate(persons) if n % 2 == fold]
        judge = fit(view(np.concatenate([x for x, _ in train])), labels_of(train))
        scores = judge(view(np.concatenate([x for x, _ in test])))
        truth = labels_of(test) > 0.5
        rank = stats.mannwhitneyu(scores[truth], scores[~truth]).statistic
        areas.append(rank / (truth.sum() * (~truth).sum()))
    return float(np.mean(areas))


def labels_of(persons: Sequence[tuple[FloatMap, float]]) -> FloatMap:
    """1 for each patch of a real person, 0 for each simulated one."""
    return np.concatenate([np.full(len(stack), label) for stack, label in persons])


def fit_network(stack: FloatMap, labels: FloatMap) -> Callable[[FloatMap], FloatMap]:
    """Train a network of three levels on patches (n, I, J, K); returns what scores others."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        *level(SIZE[2], 16), *level(16, 32), *level(32, 48),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(48, 1),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1e-2)
    inputs, wanted = to_tensor(stack), torch.from_numpy(labels.astype(np.float32))
    rng = np.random.default_rng(0)
    network.train()
    for _ in range(STEPS):
        chosen = torch.from_numpy(rng.choice(len(labels), BATCH))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            network(inputs[chosen])[:, 0], wanted[chosen]
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()

    def judge(others: FloatMap) -> FloatMap:
        with torch.no_grad():
            return network(to_tensor(others))[:, 0].numpy()

    return judge


def level(n_in: int, n_out: int) -> list[torch.nn.Module]:
    """One level: convolution, normalisation, half the resolution; slices are channels."""
    return [
        torch.nn.Conv2d(n_in, n_out, 3, padding=1),
        torch.nn.BatchNorm2d(n_out),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
    ]


def to_tensor(stack: FloatMap) -> torch.Tensor:
    """(n, I, J, K) in ppm to (n, K, I, J) of about unit spread."""
    return torch.from_numpy(np.ascontiguousarray(stack.transpose(0, 3, 1, 2) / 0.05)).float()


def fit_line(rows: FloatMap, labels: FloatMap) -> Callable[[FloatMap], FloatMap]:
    """Linear discriminant of rows of numbers."""
    mean, spread = rows.mean(axis=0), rows.std(axis=0) + 1e-9
    design = np.column_stack([(rows - mean) / spread, np.ones(len(rows))])
    weights, *_ = np.linalg.lstsq(design, labels - labels.mean(), rcond=None)
    return lambda others: (
        np.column_stack([(others - mean) / spread, np.ones(len(others))]) @ (weights)
    )
