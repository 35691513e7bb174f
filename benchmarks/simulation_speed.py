"""Time and memory of one simulated person at 0.75 × 0.75 × 1.5 mm, four echoes.

    python benchmarks/simulation_speed.py --anatomy head.npz --out work/simulation_speed.json

Signal is everything up to the complex echoes and T2w of a person with and without deposits;
floors on two cores: signal under 60 s, with SWI and QSM made of it under 150 s. Processor time
stands beside wall time: on a machine that does other work it is the one to go by. With
``--echoes-on-gpu`` the echoes are also made of random maps by torch on the GPU, if there is one.
"""

import argparse
import json
import os
import resource
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from deepmir.physics.arrays import Array
from deepmir.physics.dipole import field_ppm
from deepmir.physics.signal import gradient_echo, sum_subvoxels
from deepmir.reconstruction.run import reconstruct_chimap, reconstruct_swi
from deepmir.simulation.acquire import acquire
from deepmir.simulation.anatomy import built_in_anatomy, load_anatomy
from deepmir.simulation.lesions import realistic_counts
from deepmir.simulation.protocol import mesa_like
from deepmir.simulation.scene import build_scene, sample_variation

SPACING_MM = (0.75, 0.75, 1.5)
FLOORS_S = {"signal": 60.0, "with SWI and QSM": 150.0}
FINE_SHAPE = (384, 448, 208)  # of the GPU's run: a head at twice the scan's resolution


def main() -> None:
    """Simulate one person, print and write what it took."""
    options = read_options()
    anatomy = load_anatomy(options.anatomy) if options.anatomy else built_in_anatomy()
    protocol = replace(mesa_like(), name="speed", spacing_mm=SPACING_MM, detailed_people=True)
    rng = np.random.default_rng(options.seed)
    clock = Clock()
    scene = build_scene(
        anatomy, protocol, sample_variation(rng, signs_of_age=True), realistic_counts(rng), rng
    )
    clock.lap("scene")
    scan = acquire(scene, protocol, rng)
    clock.lap("scan")
    reconstruct_swi(scan.echoes, protocol.swi)
    clock.lap("SWI")
    reconstruct_chimap(scan.echoes, scan.brain, protocol.chimap)
    clock.lap("QSM")
    row: dict[str, object] = {
        "grid": scan.brain.shape,
        "deposits": len(scene.deposits),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "wall_s": clock.summed(clock.wall_s),
        "processor_s": clock.summed(clock.processor_s),
        "floors_s": FLOORS_S,
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }
    if options.echoes_on_gpu:
        row["gpu"] = gpu_seconds()
    print(json.dumps(row, indent=1))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(row, indent=1), encoding="utf-8")


def read_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--anatomy", type=Path, help="finished head; without it the built-in one")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--echoes-on-gpu", action="store_true")
    return parser.parse_args()


class Clock:
    """Laps of wall time and processor time."""

    def __init__(self) -> None:
        self.wall_s: dict[str, float] = {}
        self.processor_s: dict[str, float] = {}
        self._last = time.perf_counter(), time.process_time()

    def lap(self, name: str) -> None:
        """Note what went by since the last lap."""
        now = time.perf_counter(), time.process_time()
        self.wall_s[name] = now[0] - self._last[0]
        self.processor_s[name] = now[1] - self._last[1]
        self._last = now

    def summed(self, laps: dict[str, float]) -> dict[str, float]:
        """Laps, and the two sums that have floors."""
        signal = laps["scene"] + laps["scan"]
        whole = {"signal": signal, "with SWI and QSM": signal + laps["SWI"] + laps["QSM"]}
        return {name: round(seconds, 1) for name, seconds in (laps | whole).items()}


def gpu_seconds() -> dict[str, object]:
    """Field and four echoes of a whole head on the GPU, by the same functions; the second run."""
    import torch  # noqa: PLC0415 - only where it is asked for

    if not torch.cuda.is_available():
        return {"device": "none"}
    maps: list[Array] = [torch.rand(FINE_SHAPE, device="cuda") for _ in range(3)]

    def run() -> None:
        field = field_ppm(maps[0], (0.375, 0.375, 0.75), (0, 0, 1), margin_mm=12.0)
        for echo_time_s in mesa_like().echo_times_s:
            fine = gradient_echo(maps[1], maps[2], field, b0_t=3.0, echo_time_s=echo_time_s)
            sum_subvoxels(fine, (2, 2, 2))
        torch.cuda.synchronize()

    run()
    return {"device": torch.cuda.get_device_name(), "seconds": round(timed(run), 3)}


def timed(run: Callable[[], None]) -> float:
    """Wall time of a call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
