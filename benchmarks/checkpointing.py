"""What gradient checkpointing saves and costs: memory and time of a training step.

    python benchmarks/checkpointing.py --threads 2

Each measurement is a process of its own that builds the network of a recipe and trains it on one
batch of random numbers of the recipe's size. Memory is the most that the process held beyond what
it held before its first step; on a GPU, what torch had allocated at most. Prints a table.
"""

import argparse
import resource
import subprocess
import sys
import time
from statistics import median

import torch

from deepmir.model.unet import build_network
from deepmir.training.recipes import Recipe, read_recipe

RECIPES = ("release-anatomy", "release-nuclei", "release-findings")
HEAD_SHAPE = (96, 128, 96)
"""Voxels of 2 mm of a whole head, which the anatomy part sees at once."""
STEPS = 4  # the first warms up and is not timed


def main() -> None:
    """Measure every recipe with and without, print the table."""
    options = read_options()
    if options.one is not None:
        print(*measure(read_recipe(options.one), options))
        return
    print("| recipe | batch | memory, GiB | with checkpointing | s a step | with checkpointing |")
    print("|---|---|---|---|---|---|")
    for name in RECIPES:
        plain, spared = (run(name, options, checkpointing=on) for on in (False, True))
        size = " × ".join(map(str, batch_shape(read_recipe(name))))
        memory = f"{plain[0]:.2f} | {spared[0]:.2f} ({spared[0] / plain[0]:.0%})"
        print(f"| `{name}` | {size} | {memory} | {plain[1]:.2f} | {spared[1]:.2f} |", flush=True)


def read_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--one", choices=RECIPES, help="measure this one in this process")
    parser.add_argument("--checkpointing", action="store_true", help="of --one")
    return parser.parse_args()


def run(name: str, options: argparse.Namespace, *, checkpointing: bool) -> tuple[float, float]:
    """Memory (GiB) and time (s) of a step, measured in a process of its own."""
    words = [
        sys.executable, __file__, "--one", name, "--threads", str(options.threads),
        "--device", options.device, *(["--checkpointing"] if checkpointing else []),
    ]  # fmt: skip
    said = subprocess.run(  # noqa: S603 - this file
        words, check=True, capture_output=True, text=True
    ).stdout
    memory, seconds = map(float, said.split())
    return memory, seconds


def batch_shape(recipe: Recipe) -> tuple[int, ...]:
    """Shape of the inputs of one step."""
    sizes = {
        "anatomy": HEAD_SHAPE,
        "nuclei": recipe.nuclei.patch,
        "findings": recipe.findings.shape,
    }
    return recipe.optimisation.batch_size, recipe.network.in_channels, *sizes[recipe.part]


def measure(recipe: Recipe, options: argparse.Namespace) -> tuple[float, float]:
    """Memory (GiB) and time (s) of a step in this process."""
    torch.set_num_threads(options.threads)
    network = build_network(recipe.network).to(options.device)
    network.checkpointing = options.checkpointing
    optimizer = torch.optim.AdamW(network.parameters())
    batch = torch.randn(batch_shape(recipe), device=options.device)
    before, times = memory_gib(options.device), []
    for _ in range(STEPS):
        started = time.perf_counter()
        sum(level.square().mean() for level in network.forward_levels(batch)).backward()
        optimizer.step()
        optimizer.zero_grad()
        if options.device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return memory_gib(options.device) - before, median(times[1:])


def memory_gib(device: str) -> float:
    """Most memory that was held until now."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
