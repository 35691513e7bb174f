"""``deepmir info``: what is installed, which network is used, what hardware there is."""

from typing import TYPE_CHECKING

from deepmir.cli import options
from deepmir.cli.console import show_table

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLES = "Put this into a bug report."

_PARTS = {
    "torch": "train",
    "monai": "train",
    "onnx": "train",
    "safetensors": "train",
}


def run(
    *,
    weights: options.WeightsFolder = None,
    verbose: options.Verbose = False,  # noqa: ARG001 - read by main()
) -> None:
    """Show version, network and its model card, hardware, and optional parts."""
    show_table("deepmir", ("what", "found"), [*_software(), *_hardware(), *_parts()])
    _show_weights(weights)


def _software() -> list[tuple[str, str]]:
    from deepmir.io.provenance import describe_software

    software = describe_software()
    return [
        ("deepmir", software.deepmir),
        ("Python", f"{software.python} on {software.platform}"),
        *software.dependencies.items(),
    ]


def _hardware() -> list[tuple[str, str]]:
    import os

    import psutil

    memory = psutil.virtual_memory()
    return [
        ("CPU threads", str(os.cpu_count())),
        ("memory", f"{memory.total / 2**30:.1f} GB, {memory.available / 2**30:.1f} GB free"),
        ("GPU", _gpu()),
    ]


def _gpu() -> str:
    from importlib.util import find_spec

    if find_spec("torch") is None:
        return "not looked for: torch is not installed"
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "none that torch can use"


def _parts() -> list[tuple[str, str]]:
    from importlib.util import find_spec

    extras = dict.fromkeys(_PARTS.values())
    missing = {
        extra: [name for name, of in _PARTS.items() if of == extra and find_spec(name) is None]
        for extra in extras
    }
    return [
        (
            f"part [{extra}]",
            f"not installed: pip install 'deepmir[{extra}]'" if names else "installed",
        )
        for extra, names in missing.items()
    ]


def _show_weights(folder: "Path | None") -> None:
    from deepmir.errors import WeightsError
    from deepmir.model.weights import CARD_FILE, load_weights

    try:
        weights = load_weights(folder)
    except WeightsError as error:
        if folder is not None:
            raise
        print(f"network: {error}")  # the rest of the information is most wanted then
        return
    manifest = weights.manifest
    rows = [
        ("name", f"{manifest.name} {manifest.version}"),
        ("folder", str(weights.folder)),
        ("SHA-256", weights.sha256),
        *((f"threshold {name}", f"{value:.2f}") for name, value in manifest.thresholds.items()),
        ("licence", manifest.card.licence),
    ]
    show_table("network", ("what", "found"), rows)
    card = weights.folder / CARD_FILE
    print(card.read_text(encoding="utf-8") if card.is_file() else manifest.card.summary)
