"""What a GPU gives: inference, training steps, samples and physics, beside the CPU's results.

    python benchmarks/gpu.py --out work/gpu

Prints a table and writes ``gpu.json``. The share of peak is of what the card reaches on large
matrix products of the same precision, measured in the same run.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from deepmir.labels import REGIONS
from deepmir.model.losses import FindingsLoss, anatomy_loss, findings_loss
from deepmir.model.predict import predict_windows
from deepmir.model.predict_torch import TorchNetwork, load_network, open_torch_network
from deepmir.model.unet import UNet
from deepmir.model.weights import load_weights
from deepmir.physics.dipole import field_ppm
from deepmir.physics.kspace import crop_k_space
from deepmir.training.anatomy_samples import AnatomySampling, load_head, make_sample

HEAD_SHAPE = (8, 192, 240, 120)  # findings part: brain box of a scan of 0.9 × 0.9 × 1.2 mm
COARSE_SHAPE = (6, 96, 128, 96)  # anatomy part: whole head at 2 mm
BATCHES = {"findings": (16, 8, 64, 64, 16), "anatomy": (1, *COARSE_SHAPE)}
FORMATS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last_3d}


def main() -> int:
    """Measure everything."""
    options = read_options()
    if not torch.cuda.is_available():
        print("torch finds no GPU here", file=sys.stderr)
        return 2
    rows: dict[str, float | str] = {
        "card": torch.cuda.get_device_name(),
        "torch": torch.__version__,
    }
    rows |= peaks()
    rows |= training_steps()
    if options.anatomy is not None:
        rows |= samples(options.anatomy)
    rows |= inference(peak=float(rows["float32 peak, TFLOP/s"]))
    rows |= physics()
    for name, value in rows.items():
        print(f"| {name} | {value if isinstance(value, str) else f'{value:.4g}'} |")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gpu.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return 0


def read_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--anatomy", type=Path, help="a finished anatomy, to time samples of it")
    return parser.parse_args()


def seconds(work: Callable[[], object], *, repeats: int = 10) -> float:
    """Median time of some work on the GPU, after two rounds that warm up."""
    times = []
    for _ in range(repeats + 2):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return float(np.median(times[2:]))


def peaks() -> dict[str, float | str]:
    """Rate of large matrix products in the precisions that networks run in."""
    torch.backends.cuda.matmul.allow_tf32 = False
    found: dict[str, float | str] = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        matrix = torch.randn(8192, 8192, device="cuda", dtype=dtype)
        taken = seconds(lambda matrix=matrix: matrix @ matrix)
        found[f"{name} peak, TFLOP/s"] = 2 * 8192**3 / taken / 1e12
    return found


def training_steps() -> dict[str, float | str]:
    """Time of a training step of each part, in bfloat16, by memory format."""
    torch.backends.cudnn.benchmark = True
    found: dict[str, float | str] = {}
    for part in ("findings", "anatomy"):
        for name, memory in FORMATS.items():
            network = load_network(load_weights(), part).cuda().to(memory_format=memory).train()
            inputs = torch.randn(BATCHES[part], device="cuda").contiguous(memory_format=memory)
            target = random_target(part, inputs)
            optimizer = torch.optim.AdamW(network.parameters(), fused=True)

            def step(
                network: UNet = network, inputs: Tensor = inputs, target: Tensor = target,
                optimizer: torch.optim.AdamW = optimizer, part: str = part,
            ) -> None:  # fmt: skip
                with torch.autocast("cuda", torch.bfloat16):
                    logits = network(inputs)
                optimizer.zero_grad(set_to_none=True)
                loss_of(part, logits, target).backward()
                optimizer.step()

            found[f"{part}, step of {BATCHES[part][0]}, {name}, s"] = seconds(step)
    return found


def random_target(part: str, inputs: Tensor) -> Tensor:
    """Random classes for a batch."""
    n_classes = 4 if part == "findings" else len(REGIONS) + 2
    shape = (inputs.shape[0], *inputs.shape[2:])
    return torch.randint(n_classes, shape, device=inputs.device, dtype=torch.uint8)


def loss_of(part: str, logits: Tensor, target: Tensor) -> Tensor:
    """Loss of a part."""
    if part == "findings":
        return findings_loss(logits, target, FindingsLoss())
    return anatomy_loss(logits, target, right=target > 8, paired=target > 2)


def samples(anatomy: Path) -> dict[str, float | str]:
    """Time of a synthetic head of the anatomy part, made on CPU and GPU."""
    head = load_head(anatomy)
    rng = np.random.default_rng(1)
    found: dict[str, float | str] = {}
    for device in ("cpu", "cuda"):
        here = head.to(torch.device(device))
        taken = seconds(lambda here=here: make_sample(here, rng, AnatomySampling(deep_share=0.0)))
        found[f"anatomy sample on {device}, s"] = taken
    return found


def inference(*, peak: float) -> dict[str, float | str]:
    """Time of both parts on a whole head, the share of peak, and how far the CPU's result is."""
    weights, rng = load_weights(), np.random.default_rng(1)
    head = rng.standard_normal(HEAD_SHAPE, dtype=np.float32)
    coarse = rng.standard_normal((1, *COARSE_SHAPE), dtype=np.float32)
    where = np.ones(HEAD_SHAPE[1:], dtype=bool)
    window = weights.manifest.inputs.findings_window
    found: dict[str, float | str] = {}
    for part in ("findings", "anatomy"):
        network = open_torch_network(weights, part)
        assert network is not None  # noqa: S101 - main has looked

        def run(network: TorchNetwork = network, part: str = part) -> object:
            if part == "anatomy":
                return network(coarse)
            return predict_windows(network, head, window=window, overlap=0.25, where=where)

        with FlopCounterMode(display=False) as counter:
            run()
        taken = seconds(run, repeats=3)
        found[f"{part}, whole head, s"] = taken
        found[f"{part}, whole head, TFLOP"] = counter.get_total_flops() / 1e12
        found[f"{part}, share of float32 peak"] = counter.get_total_flops() / 1e12 / taken / peak
        small = coarse if part == "anatomy" else head[None, :, :64, :64, :32]
        there = TorchNetwork(load_network(weights, part), torch.device("cpu"))(small)
        found[f"{part}, largest difference of logits from the CPU's"] = float(
            np.abs(network(small) - there).max()
        )
    return found


def physics() -> dict[str, float | str]:
    """Time of field and k-space cropping of a head, and how far the CPU's result is."""
    chi = torch.randn(256, 256, 192, generator=torch.Generator().manual_seed(1))
    found: dict[str, float | str] = {}
    works = {
        "dipole field": lambda array: field_ppm(array, (1, 1, 1), (0, 0, 1), margin_mm=32),
        "k-space cropping": lambda array: crop_k_space(array * (1 + 0j), (2, 2, 2)),
    }
    for name, work in works.items():
        on_gpu = chi.cuda()
        start = time.perf_counter()
        reference = work(chi.numpy())
        found[f"{name}, NumPy, s"] = time.perf_counter() - start
        found[f"{name}, GPU, s"] = seconds(lambda work=work, on_gpu=on_gpu: work(on_gpu))
        difference = np.abs(work(on_gpu).cpu().numpy() - reference)
        found[f"{name}, relative difference"] = float(difference.max() / np.abs(reference).max())
    return found


if __name__ == "__main__":
    sys.exit(main())
