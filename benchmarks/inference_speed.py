"""Inference on the CPU as `deepmir segment` does it, beside torch with the same weights.

    python benchmarks/inference_speed.py --out work/inference_speed.json --threads 2

Both run in one process, in turns, on the same random images of a person's size: the findings part
in its overlapping windows over a whole brain, the anatomy part on a whole head at 2 mm, the nuclei
part on its box of 1 mm. Torch runs the network as it is (eager, float32), OpenVINO as `segment`
sets it: a window and its mirror image side by side, one after the other by torch, as is faster for
each. Prints medians, how many times faster OpenVINO is, and the largest difference of a logit in
one window.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from deepmir.config import SegmentConfig
from deepmir.model.predict import Network, OpenVinoNetwork, Window, predict_windows
from deepmir.model.predict_torch import TorchNetwork, load_network
from deepmir.model.weights import Part, Weights, load_weights
from deepmir.volume import FloatMap

SHAPES: dict[Part, tuple[int, ...]] = {
    "anatomy": (6, 96, 128, 96),  # a whole head at 2 mm
    "nuclei": (10, 104, 96, 72),  # a box of 1 mm
    "findings": (8, 144, 184, 112),  # box of a brain, 1.0 × 1.0 × 1.25 mm
}
SEED = 1


@dataclass(frozen=True, slots=True)
class Row:
    """What one part takes."""

    part: Part
    torch_s: float
    openvino_s: float
    times_faster: float
    logit_difference: float


def main() -> None:
    """Measure all parts, print and write."""
    options = read_options()
    torch.set_num_threads(options.threads)
    weights = load_weights(options.weights)
    rows = [
        measure(part, weights, threads=options.threads, repeats=options.repeats) for part in SHAPES
    ]
    print(f"{processor()}, {options.threads} threads, medians of {options.repeats}\n")
    print("| part | torch, s | OpenVINO, s | times faster | largest difference of a logit |")
    print("|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row.part} | {row.torch_s:.2f} | {row.openvino_s:.2f} | {row.times_faster:.1f} "
            f"| {row.logit_difference:.1g} |"
        )
    result = {
        "processor": processor(),
        "threads": options.threads,
        "versions": {name: version(name) for name in ("torch", "openvino")},
        "rows": [asdict(row) for row in rows],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1), encoding="utf-8")


def read_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


def measure(part: Part, weights: Weights, *, threads: int, repeats: int) -> Row:
    """Run one part by both, in turns."""
    networks: Mapping[str, Network] = {
        "torch": one_by_one(TorchNetwork(load_network(weights, part), torch.device("cpu"))),
        "openvino": OpenVinoNetwork(weights.onnx_path(part), threads=threads),
    }
    images = random_images(part)
    window = weights.manifest.inputs.findings_window if part == "findings" else SHAPES[part][1:]
    # in turns, so that what else the machine does weighs on both; the first round warms up
    rounds = [
        {
            name: seconds(lambda here=here: run(part, here, images, window=window))
            for name, here in networks.items()
        }
        for _ in range(repeats + 1)
    ][1:]
    by_torch, by_openvino = (float(np.median([r[name] for r in rounds])) for name in networks)
    i, j, k = window
    first, second = (network(images[np.newaxis, :, :i, :j, :k]) for network in networks.values())
    return Row(
        part, by_torch, by_openvino, by_torch / by_openvino, float(np.abs(first - second).max())
    )


def one_by_one(network: Network) -> Network:
    """Network that computes the images of a batch one after the other."""
    return lambda batch: np.concatenate([network(image[np.newaxis]) for image in batch])


def run(part: Part, network: Network, images: FloatMap, *, window: Window) -> FloatMap:
    """Run a part over a person."""
    if part != "findings":
        return network(images[np.newaxis])
    everywhere = np.ones(images.shape[1:], dtype=bool)
    overlap = SegmentConfig().overlap
    return predict_windows(network, images, window=window, overlap=overlap, where=everywhere)


def random_images(part: Part) -> FloatMap:
    """Noise in a person's size: how long a convolution takes does not depend on the numbers."""
    return np.random.default_rng(SEED).normal(size=SHAPES[part]).astype(np.float32)


def seconds(work: Callable[[], object]) -> float:
    """Time of some work."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def processor() -> str:
    """Name of the processor, as Linux says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown processor"


if __name__ == "__main__":
    main()
