"""A weights folder whose findings part a study has trained on: what `--weights` takes.

base/anatomy.onnx …     ──copied──────────▶ OUT/anatomy.onnx, nuclei.onnx
checkpoint of findings  ──half precision──▶ OUT/findings.onnx, weights.safetensors
"""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from deepmir.errors import OutputError
from deepmir.labels import Finding
from deepmir.model.unet import UNet
from deepmir.model.weights import (
    CARD_FILE,
    ONNX_FILES,
    TRAINABLE_FILE,
    Part,
    Weights,
    load_weights,
    write_manifest,
)
from deepmir.training.export import (
    load_trainable,
    read_trained_part,
    write_onnx,
    write_safetensors,
)


def export_tuned(
    checkpoint: Path,
    base: Path,
    out: Path,
    *,
    thresholds: Mapping[Finding, float],
    persons: tuple[int, int],
) -> Weights:
    """Write a weights folder: the findings part of a checkpoint, the rest as in `base`.

    Parameters
    ----------
    checkpoint : Path
        Of the findings part.
    base : Path
        Weights folder that the other parts are taken from.
    thresholds : mapping
        Least probability of each finding, calibrated as in `base`.
    persons : tuple of int
        How many persons trained and how many validated, for the model card.

    Raises
    ------
    TrainingError
        If the checkpoint cannot be read or is of another part.
    WeightsError
        If `base` is damaged, or the folder exceeds 16 MB.
    OutputError
        If it cannot be written.
    """
    released = load_weights(base)
    trained = read_trained_part("findings", checkpoint)
    name = f"{released.manifest.name}-tuned"
    note = (
        f"Its findings part went on by recipe {trained.recipe.name} (seed "
        f"{trained.recipe.optimisation.seed}, {trained.step} steps) on {persons[0]} persons of a "
        f"study, validated on {persons[1]}."
    )
    calibrated = (
        f"Its probabilities are calibrated as those of {released.manifest.name}: that was not "
        "fitted again on the study."
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
        networks: dict[Part, UNet] = {"findings": trained.network}
        write_onnx(trained.network, out / ONNX_FILES["findings"])
        for part in ONNX_FILES:
            if part != "findings" and released.has(part):
                shutil.copyfile(base / ONNX_FILES[part], out / ONNX_FILES[part])
                networks[part] = load_trainable(base, part)
        write_safetensors(networks, out / TRAINABLE_FILE)
        text = _card_text(name, f"{note} {calibrated}", base)
        (out / CARD_FILE).write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error.strerror}; free space") from error
    scores = ", ".join(f"{name} {value:.3f}" for name, value in trained.scores.items())
    card = replace(
        released.manifest.card,
        training_data=f"{released.manifest.card.training_data}; {note}",
        evaluation=f"on patches of the validating persons: {scores}" if scores else "none",
        limits=f"{released.manifest.card.limits} {calibrated}",
    )
    return write_manifest(
        out,
        name=name,
        version=released.manifest.version,
        thresholds=dict(thresholds),
        calibration=released.manifest.calibration,
        card=card,
        inputs=released.manifest.inputs,
    )


def _card_text(name: str, note: str, base: Path) -> str:
    below = base / CARD_FILE
    earlier = below.read_text(encoding="utf-8") if below.exists() else ""
    return f"# {name}\n\n{note} What follows is the card of the network it began as.\n\n{earlier}"
