"""Running the network: OpenVINO on the CPU, torch where there is a GPU.

OpenVINO computes in float32 by default: its bfloat16 hint halves the time and moves the
probabilities of small lesions.
"""

import itertools
import os
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol, TypeVar, cast

import numpy as np
import numpy.typing as npt
import openvino

from deepmir.config import SegmentConfig
from deepmir.errors import GeometryError, MissingPartError, WeightsError
from deepmir.model.weights import Part, Weights
from deepmir.volume import BoolMap, FloatMap

Window = tuple[int, int, int]

WINDOW_MULTIPLE: Window = (8, 8, 4)
"""The findings part halves its grid this often: windows are multiples along I, J and K."""
SOFTENING = 4.0
"""Logits are divided by this before the softmax of the findings part. At 1 a voxel where windows
overlap would be as uncertain as the least certain of them, however sure the others are."""
_MOST_LOG_ODDS = 80.0
_SIGMA = 1 / 8  # of the window: how fast a window's weight falls off from its centre
_Map = TypeVar("_Map", FloatMap, BoolMap)
_GPU_NODES = ("/dev/nvidia0", "/dev/kfd", "/dev/dxg")  # CUDA, ROCm, CUDA under WSL


class Network(Protocol):
    """One part of the network, ready to run."""

    def __call__(self, batch: FloatMap) -> FloatMap:
        """Logits (B, C_out, I, J, K) of a batch (B, C_in, I, J, K), float32."""
        ...


@cache
def _openvino_core() -> openvino.Core:
    """Return the one core of this process, which lives as long as the process does.

    OpenVINO's CPU plugin gives the thread that loads it a stack for signal handlers, and frees
    that stack when the last core goes. Where another thread lets go of it, the next signal (of a
    user who presses Ctrl-C, of a scheduler) ends the process in a segmentation fault.
    """
    return openvino.Core()


class OpenVinoNetwork:
    """One part of the network on the CPU; recompiled when the shape of its input changes.

    The images of a batch are computed side by side, each on its share of the threads: on two
    cores that takes a tenth less time than one after the other on both.
    """

    def __init__(self, path: Path, *, threads: int) -> None:
        self._options: dict[str, str | int | bool] = {
            "INFERENCE_PRECISION_HINT": "f32",
            "EXECUTION_MODE_HINT": "ACCURACY",
            # Pinned, every process of a cohort with one thread computes on the first core.
            "ENABLE_CPU_PINNING": False,
        }
        self._threads = threads or os.cpu_count() or 1
        if threads:
            self._options["INFERENCE_NUM_THREADS"] = threads
        self._path = path
        self._shape: tuple[int, ...] = ()
        try:
            self._model = _openvino_core().read_model(path)
        except RuntimeError as error:
            raise WeightsError(
                f"OpenVINO cannot read {path}: {str(error).splitlines()[-1]}; reinstall deepmir, "
                "or export the weights again"
            ) from error

    def __call__(self, batch: FloatMap) -> FloatMap:
        """Logits (B, C_out, I, J, K) of a batch (B, C_in, I, J, K), float32.

        Raises
        ------
        WeightsError
            If the network does not take an input of this shape.
        """
        if batch.shape != self._shape:
            self._compile(batch.shape)
        for request, image in zip(self._requests, batch, strict=True):
            request.start_async([np.ascontiguousarray(image[np.newaxis], dtype=np.float32)])
        for request in self._requests:
            request.wait()
        return np.concatenate([request.results[0] for request in self._requests])

    def _compile(self, shape: tuple[int, ...]) -> None:
        try:
            if (
                not self._model.input(0)
                .get_partial_shape()[1]
                .compatible(openvino.Dimension(shape[1]))
            ):
                raise RuntimeError(f"it takes another number of channels than {shape[1]}")
            self._model.reshape([1, *shape[1:]])
            side_by_side = {"NUM_STREAMS": min(shape[0], self._threads)}
            compiled = _openvino_core().compile_model(
                self._model, "CPU", self._options | side_by_side
            )
        except RuntimeError as error:
            raise WeightsError(
                f"{self._path} does not take an input of shape {shape}: "
                f"{str(error).splitlines()[-1]}; was it exported by another version of deepmir?"
            ) from error
        self._requests = [compiled.create_infer_request() for _ in range(shape[0])]
        self._shape = shape


def open_network(weights: Weights, part: Part, config: SegmentConfig) -> Network:
    """Load one part of the network for the device that the config asks for.

    Raises
    ------
    WeightsError
        If its file is not a network.
    MissingPartError
        If a GPU is asked for and torch is not installed or finds none.
    """
    if config.device == "gpu" or (config.device == "auto" and _gpu_likely()):
        network = _on_gpu(weights, part)
        if network is not None:
            return network
        if config.device == "gpu":
            raise MissingPartError(
                "no GPU: torch with GPU support is not installed, or finds none; install "
                "deepmir[train] on a machine with a GPU, or use --device cpu"
            )
    return OpenVinoNetwork(weights.onnx_path(part), threads=config.threads)


def _on_gpu(weights: Weights, part: Part) -> Network | None:
    # an optional part that takes seconds to import: only where there may be a GPU
    try:
        torch_part = import_module("deepmir.model.predict_torch")
    except ModuleNotFoundError:
        return None
    return cast(Network | None, torch_part.open_torch_network(weights, part))


def _gpu_likely() -> bool:
    return find_spec("torch") is not None and any(Path(node).exists() for node in _GPU_NODES)


def predict_windows(
    network: Network,
    channels: FloatMap,
    *,
    window: Window,
    overlap: float,
    where: BoolMap,
    progress: Callable[[float], None] | None = None,
) -> FloatMap:
    """Run a network in overlapping windows and blend its softened probabilities.

    Softened: the softmax of logits / `SOFTENING`; :func:`log_odds` undoes it. The network sees
    each window twice, as it is and mirrored along I; the mean counts.

    Windows overlap and count most in their middle (a Gaussian), so that no edge shows. Only
    the box around `where` is visited, and of it only windows that `where` reaches into.

    Parameters
    ----------
    network
        Takes (1, C, *window) and gives logits (1, N, *window).
    channels : (C, I, J, K) array
    window
        Length of a window along I, J and K; shorter axes get a shorter window, and are
        padded with zeros to multiples of 8, 8 and 4.
    overlap
        Share that neighbouring windows have in common, 0 to less than 1.
    where : (I, J, K) bool array
        Voxels whose probabilities are wanted.
    progress
        Told the share of windows that are done.

    Returns
    -------
    (N, I, J, K) float32 array of softened probabilities, outside the box of `where` 1 for channel 0

    Raises
    ------
    GeometryError
        If `where` is empty or not on the grid of `channels`.
    """
    if where.shape != channels.shape[1:] or not where.any():
        raise GeometryError(
            f"wanted a mask with voxels on the grid {channels.shape[1:]} of the channels, got "
            f"{int(where.sum())} voxels of {where.shape}"
        )
    box = bounding_box(where, margin=WINDOW_MULTIPLE)
    inside = where[box]
    size = _window_size(inside.shape, window)
    corners = [c for c in _corners(inside.shape, size, overlap) if _block(inside, c, size).any()]
    blended = _Blend(inside.shape, size)
    for count, corner in enumerate(corners, start=1):
        block = _padded(_block(channels[(slice(None), *box)], corner, size), size)
        blended.add(seen_both_ways(network, block, softening=SOFTENING), corner)
        if progress is not None:
            progress(count / len(corners))
    return _in_full(blended.result(), box, where.shape)


def seen_both_ways(network: Network, image: FloatMap, *, softening: float = 1.0) -> FloatMap:
    """Probabilities (N, I, J, K) of an image (C, I, J, K), seen as it is and mirrored along I.

    Parameters
    ----------
    softening
        Logits are divided by this before the softmax.

    Returns
    -------
    float32 array, the mean of both
    """
    logits = network(np.stack([image, image[:, ::-1]])) / np.float32(softening)
    straight, mirrored = map(softmax, logits)
    straight += mirrored[:, ::-1]
    straight *= np.float32(0.5)
    return straight


def softmax(logits: FloatMap) -> FloatMap:
    """Probabilities (C, ...) of logits (C, ...): they sum to 1 over the first axis.

    Examples
    --------
    >>> softmax(np.array([0.0, np.log(3)], dtype=np.float32)).round(3).tolist()
    [0.25, 0.75]
    """
    shifted = np.exp(logits - logits.max(axis=0))
    shifted /= shifted.sum(axis=0)
    return cast(FloatMap, shifted)


def log_odds(softened: FloatMap) -> FloatMap:
    """Log odds of every class but the first, as the network gives them without softening.

    Parameters
    ----------
    softened : (N, ...) array
        Softmax of logits / `SOFTENING`, or zero for all classes where nothing is known.

    Returns
    -------
    (N - 1, ...) float32 array, at most 80; minus infinity where the probability is 0

    Examples
    --------
    >>> logits = np.array([0.0, 30.0, -2.0], dtype=np.float32)
    >>> log_odds(softmax(logits / 4)).round().tolist()
    [30.0, -32.0]
    """
    sharp = softened**SOFTENING
    odds = np.empty_like(sharp[1:])
    with np.errstate(divide="ignore", invalid="ignore"):
        for index in range(1, len(sharp)):
            others = sharp[:index].sum(axis=0) + sharp[index + 1 :].sum(axis=0)
            odds[index - 1] = np.log(sharp[index]) - np.log(others)
    odds[sharp[1:] == 0] = -np.inf
    return np.minimum(odds, np.float32(_MOST_LOG_ODDS))


def sigmoid(logit: FloatMap) -> FloatMap:
    """Probability of a logit."""
    return cast(FloatMap, 0.5 * (1 + np.tanh(0.5 * logit)))


def bounding_box(mask: BoolMap, *, margin: Window = (0, 0, 0)) -> tuple[slice, slice, slice]:
    """Slices of the smallest box that holds all voxels of a mask, and a margin of voxels.

    Raises
    ------
    GeometryError
        If the mask is empty.
    """
    if not mask.any():
        raise GeometryError(f"the mask {mask.shape} is empty: it has no bounding box")
    sides = []
    for axis, (n, pad) in enumerate(zip(mask.shape, margin, strict=True)):
        others = tuple(other for other in range(3) if other != axis)
        where = np.flatnonzero(mask.any(axis=others))
        sides.append(slice(max(int(where[0]) - pad, 0), min(int(where[-1]) + 1 + pad, n)))
    return sides[0], sides[1], sides[2]


class _Blend:
    """Weighted sum of windows over one box; all that is kept in memory."""

    def __init__(self, shape: tuple[int, ...], size: Window) -> None:
        self._weight_sum = np.zeros(shape, dtype=np.float32)
        self._sum: FloatMap | None = None
        self._weight = _gaussian(size)

    def add(self, probabilities: FloatMap, corner: Window) -> None:
        """Add one window (N, *size) whose first voxel lies at `corner`."""
        if self._sum is None:
            shape = (probabilities.shape[0], *self._weight_sum.shape)
            self._sum = np.zeros(shape, dtype=np.float32)
        size = cast(Window, self._weight.shape)
        part = tuple(
            slice(0, min(length, n - start))
            for length, n, start in zip(size, self._weight_sum.shape, corner, strict=True)
        )
        weight = self._weight[part]
        _block(self._sum, corner, size)[...] += weight * probabilities[(slice(None), *part)]
        _block(self._weight_sum, corner, size)[...] += weight

    def result(self) -> FloatMap:
        """Return the mean; 1 for channel 0 where no window came."""
        if self._sum is None:
            raise GeometryError("no window was predicted")
        mean = self._sum
        mean /= np.maximum(self._weight_sum, 1e-30)
        mean[0][self._weight_sum == 0] = 1
        return mean


def _gaussian(size: Window) -> FloatMap:
    axes = [
        np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (n * _SIGMA)) ** 2).astype(np.float32)
        for n in size
    ]
    weight = axes[0][:, None, None] * axes[1][:, None] * axes[2]
    return cast(FloatMap, np.maximum(weight, 1e-4))


def _window_size(shape: tuple[int, ...], window: Window) -> Window:
    i, j, k = (
        min(length, -(-n // multiple) * multiple)
        for length, n, multiple in zip(window, shape, WINDOW_MULTIPLE, strict=True)
    )
    return i, j, k


def _corners(shape: tuple[int, ...], size: Window, overlap: float) -> list[Window]:
    """First voxel of each window: evenly spread, so that none is mostly padding."""
    axes: list[npt.NDArray[np.intp]] = []
    for n, length in zip(shape, size, strict=True):
        n_windows = int(np.ceil(max(n - length, 0) / (length * (1 - overlap)) - 1e-9)) + 1
        axes.append(np.linspace(0, max(n - length, 0), n_windows).round().astype(np.intp))
    return [(int(i), int(j), int(k)) for i, j, k in itertools.product(*axes)]


def _block(image: _Map, corner: Window, size: Window) -> _Map:
    i, j, k = (slice(start, start + n) for start, n in zip(corner, size, strict=True))
    return image[..., i, j, k]


def _padded(block: FloatMap, size: Window) -> FloatMap:
    """Pad the far ends of the last three axes with zeros up to `size`."""
    missing = [n - have for n, have in zip(size, block.shape[-3:], strict=True)]
    if not any(missing):
        return block
    return np.pad(block, [(0, 0), *((0, n) for n in missing)])


def _in_full(blended: FloatMap, box: tuple[slice, ...], shape: tuple[int, ...]) -> FloatMap:
    if blended.shape[1:] == shape:
        return blended
    full = np.zeros((blended.shape[0], *shape), dtype=np.float32)
    full[0] = 1
    full[(slice(None), *box)] = blended
    return full
