"""From checkpoints to the released folder, and back.

    anatomy/last.pt  ─┐                       ┌─▶ anatomy.onnx, …               (run without torch)
    nuclei/last.pt   ─┤
    findings/last.pt ─┴─▶ half-precision EMA ─┼─▶ weights.safetensors           (train on, GPU)
                                              └─▶ manifest.json, MODEL_CARD.md

A part that was not trained on is taken from an earlier folder, with its chapter of the card.
Both forms hold the same half-precision numbers: the weights are rounded first, then written
twice. There is no pickle in the folder.
"""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file

from deepmir.errors import TrainingError, WeightsError
from deepmir.labels import Finding
from deepmir.model.predict_torch import load_network
from deepmir.model.unet import UNet, build_network, released_spec, released_state, spec_to_json
from deepmir.model.weights import (
    CARD_FILE,
    ONNX_FILES,
    TRAINABLE_FILE,
    Calibration,
    ModelCard,
    Part,
    Weights,
    load_weights,
    write_manifest,
)
from deepmir.training.fit import State, read_checkpoint
from deepmir.training.recipes import Recipe

OPSET = 17
_HALF_MAX = 65504.0
_SUMMARY = (
    "Finds microbleeds, iron deposits and calcifications on T2w, SWI and QSM, and the regions "
    "they lie in."
)
_LIMITS = (
    "For research only: not a medical device. The network saw simulated scans alone; thresholds "
    "and calibration were also chosen on findings inserted into four real susceptibility maps. "
    "Nobody has read the real scans it was measured on for findings. One training seed. What is "
    "missed most: microbleeds that touch a vein, lie in the dark rim of the brain or reach less "
    "than 0.2 ppm. Regions are rough: Dice of caudate, putamen, pallidum and thalamus 0.74 to "
    "0.84, of other regions 0.5 to 0.9."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseNotes:
    """What a release says of itself beside the numbers."""

    name: str = "deepmir-released"
    version: str = "0.1.0"
    code_version: str = ""
    data: str = "simulated scans of 12 heads (SynthSeg label maps, Apache-2.0), no patient's scan"
    thresholds: Mapping[Finding, float] = field(default_factory=lambda: dict.fromkeys(Finding, 0.5))
    calibration: Mapping[str, Mapping[str, Calibration]] = field(default_factory=dict)
    validation: Mapping[str, float] = field(default_factory=dict)
    """Figures measured outside of training, such as lesion-wise sensitivity."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainedPart:
    """One part as its checkpoint holds it, weights rounded to half precision."""

    part: Part
    recipe: Recipe
    step: int
    scores: Mapping[str, float]
    network: UNet
    share: float = 1.0
    """How far the weights are from those of an earlier folder (0) to the checkpoint's (1)."""

    @property
    def card(self) -> list[str]:
        """Its chapter of the model card, as lines."""
        return _part_card(self)


@dataclass(frozen=True, slots=True, eq=False)
class KeptPart:
    """One part as an earlier folder holds it, with its chapter of that folder's card."""

    part: Part
    network: UNet
    card: list[str]


# ---- out -----------------------------------------------------------------------------------


def export_release(
    checkpoints: Mapping[Part, Path],
    out: Path,
    notes: ReleaseNotes,
    *,
    base: Path | None = None,
    share: float = 1.0,
) -> Weights:
    """Write the released folder from the averaged weights of one checkpoint a part.

    A short run may gain on its own data and lose elsewhere: weights between those that it began
    with and those where it ended often keep both (doi:10.1109/CVPR52688.2022.00780).

    Parameters
    ----------
    checkpoints : mapping
        Checkpoint of each part that was trained.
    out : Path
        Folder that is written.
    notes : ReleaseNotes
        What the release says of itself.
    base : Path, optional
        Weights folder that a part without a checkpoint is taken from.
    share : float
        How far a trained part goes from its weights in `base` (0) to those of its checkpoint (1).

    Raises
    ------
    TrainingError
        If a checkpoint cannot be read or is of the other part; `share` is below 1 without `base`.
    WeightsError
        If a part is missing, `base` is damaged, or the folder exceeds 16 MB.
    OutputError
        If the manifest cannot be written.
    """
    trained = [read_trained_part(part, path) for part, path in checkpoints.items()]
    if share < 1:
        trained = [_part_of_the_way(one, base, share) for one in trained]
    parts: list[TrainedPart | KeptPart] = [*trained]
    if base is not None:
        kept = load_weights(base)
        parts += [
            _kept_part(part, base)
            for part in ONNX_FILES
            if part not in checkpoints and kept.has(part)
        ]
    out.mkdir(parents=True, exist_ok=True)
    for part in parts:
        write_onnx(part.network, out / ONNX_FILES[part.part])
    write_safetensors({part.part: part.network for part in parts}, out / TRAINABLE_FILE)
    (out / CARD_FILE).write_text(model_card(parts, notes), encoding="utf-8")
    scores = {**_all_scores(trained), **notes.validation}
    card = ModelCard(
        summary=_SUMMARY,
        training_data=notes.data,
        evaluation=", ".join(f"{name} {value:.3f}" for name, value in scores.items()) or "none",
        limits=_LIMITS,
    )
    return write_manifest(
        out,
        name=notes.name,
        version=notes.version,
        thresholds=dict(notes.thresholds),
        calibration=notes.calibration,
        card=card,
    )


def read_trained_part(part: Part, checkpoint: Path) -> TrainedPart:
    """Averaged weights of a checkpoint, rounded to half precision, in a network for inference.

    Raises
    ------
    TrainingError
        If the checkpoint cannot be read or is of the other part.
    """
    stored = read_checkpoint(checkpoint)
    if stored.recipe.part != part:
        raise TrainingError(f"{checkpoint} is of the {stored.recipe.part} part, wanted {part}")
    network = build_network(released_spec(stored.spec))
    network.load_state_dict(half_rounded(released_state(stored.ema)))
    network.eval()
    return TrainedPart(part, stored.recipe, stored.step, stored.scores, network)


def _part_of_the_way(trained: TrainedPart, base: Path | None, share: float) -> TrainedPart:
    """Weights between those of an earlier folder and those that were trained."""
    if base is None:
        raise TrainingError(f"share is {share}: give the base that the rest comes from")
    earlier, state = load_trainable(base, trained.part).state_dict(), trained.network.state_dict()
    between = {
        name: torch.lerp(earlier[name], value, share) if value.is_floating_point() else value
        for name, value in state.items()
    }
    trained.network.load_state_dict(half_rounded(between))
    return replace(trained, share=share)


def _kept_part(part: Part, base: Path) -> KeptPart:
    network = load_trainable(base, part)
    card = (base / CARD_FILE).read_text(encoding="utf-8")
    chapters = [chapter.strip() for chapter in re.split(r"^(?=## )", card, flags=re.MULTILINE)]
    own = [chapter for chapter in chapters if chapter.startswith(f"## {part} part")]
    return KeptPart(part, network, own[0].splitlines() if own else [f"## {part} part"])


def half_rounded(state: State) -> State:
    """Weights with the values that half precision can hold, still float32."""
    return {
        name: value.clamp(-_HALF_MAX, _HALF_MAX).half().float()
        if value.dtype.is_floating_point
        else value
        for name, value in state.items()
    }


def write_onnx(network: UNet, path: Path) -> None:
    """Write a network as ONNX: input ``image``, output ``logits``, batch and space dynamic.

    Initializers are stored in half precision behind a Cast, so that inference computes in
    float32. The TorchScript exporter is used because the newer one needs a package more.
    """
    example = torch.zeros((1, network.spec.in_channels, *(4 * m for m in network.spec.multiple)))
    axes = {0: "batch", 2: "i", 3: "j", 4: "k"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing notes and the exporter's age
        torch.onnx.export(
            network.eval(),
            (example,),
            str(path),
            dynamo=False,
            input_names=["image"],
            output_names=["logits"],
            opset_version=OPSET,
            do_constant_folding=False,
            # PRESERVE: else batch normalisation is folded into weights that are then no longer
            # those of the safetensors file.
            training=torch.onnx.TrainingMode.PRESERVE,
            dynamic_axes={"image": axes, "logits": axes},
        )
    model = onnx.load(str(path))
    _store_half(model)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _store_half(model: onnx.ModelProto) -> None:
    """Replace float32 initializers by half-precision ones that are cast back."""
    graph = model.graph
    casts = []
    for initializer in graph.initializer:
        if initializer.data_type != TensorProto.FLOAT:
            continue
        name = initializer.name
        half = numpy_helper.from_array(
            numpy_helper.to_array(initializer).astype("float16"), f"{name}.half"
        )
        initializer.CopyFrom(half)
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def write_safetensors(networks: Mapping[Part, UNet], path: Path) -> None:
    """Write the weights of all parts in half precision, with their specs in the header."""
    tensors: State = {}
    header: dict[str, str] = {}
    for part, network in networks.items():
        header[part] = spec_to_json(network.spec)
        for name, value in network.state_dict().items():
            stored = value.half() if value.dtype.is_floating_point else value
            tensors[f"{part}.{name}"] = stored.contiguous()
    save_file(tensors, str(path), metadata=header)
    path.chmod(0o644)  # safetensors makes it readable by its owner only


def _all_scores(parts: list[TrainedPart]) -> dict[str, float]:
    return {
        f"{trained.part} {name}": value
        for trained in parts
        for name, value in trained.scores.items()
    }


def model_card(parts: list[TrainedPart | KeptPart], notes: ReleaseNotes) -> str:
    """Model card in Markdown: what it is for, how it was made, what was measured."""
    lines = [
        f"# {notes.name} {notes.version}",
        "",
        _SUMMARY,
        "",
        f"**{_LIMITS}**",
        "",
        f"- Training data: {notes.data}",
        f"- Code: deepmir {notes.code_version or 'unknown version'}",
        f"- Thresholds: {', '.join(f'{f.name} {t:g}' for f, t in notes.thresholds.items())}",
    ]
    for part in parts:
        lines += ["", *part.card]
    if notes.validation:
        lines += ["", "## Measured after training", "", "| figure | value |", "|---|---|"]
        lines += [f"| {name} | {value:.3f} |" for name, value in notes.validation.items()]
    return "\n".join(lines) + "\n"


def _part_card(trained: TrainedPart) -> list[str]:
    recipe, spec = trained.recipe, trained.network.spec
    count = sum(value.numel() for value in trained.network.parameters())
    validated = f"that validated: {', '.join(map(str, recipe.validation_heads))}"
    lines = [
        f"## {trained.part} part",
        "",
        f"- U-Net of {spec.levels} levels, {'-'.join(map(str, spec.filters))}, "
        f"{spec.norm} normalisation, {count / 1e6:.2f} million weights",
        f"- Recipe {recipe.name}, seed {recipe.optimisation.seed}, {trained.step} steps of "
        f"{recipe.optimisation.batch_size}; weights are their moving average",
        f"- Heads that trained: {', '.join(map(str, recipe.train_heads))}; "
        f"{validated if trained.scores else 'none validated'}",
    ]
    if trained.share < 1:
        before = f"- Mean of the weights before ({1 - trained.share:.0%}) and of this run"
        lines.append(f"{before}, whose own validation follows" if trained.scores else before)
    if not trained.scores:
        return [*lines, "- This part has no validation scores of its own"]
    table = [f"| {name} | {value:.3f} |" for name, value in trained.scores.items()]
    return [*lines, "", "| validation while training | value |", "|---|---|", *table]


# ---- back ----------------------------------------------------------------------------------


def load_trainable(folder: Path, part: Part) -> UNet:
    """Read a released part as a network that can be trained on.

    Raises
    ------
    WeightsError
        If the folder is missing or damaged, or has no such part.
    """
    return load_network(load_weights(folder), part)


def initial_state(folder: Path, recipe: Recipe) -> State:
    """Released weights for a recipe to start from.

    Raises
    ------
    WeightsError
        If they cannot be read, or the recipe's network is another one.
    """
    if recipe.part == "slices":
        raise WeightsError(
            f"recipe {recipe.name} is of the slices part, which no weights folder holds; train it "
            "from the start, without --init"
        )
    weights = load_weights(folder)
    if not weights.has(recipe.part):
        raise WeightsError(
            f"{folder} has no {recipe.part} part; train it from the start, without --init"
        )
    network = load_network(weights, recipe.part)
    if network.spec != released_spec(recipe.network):
        raise WeightsError(
            f"the {recipe.part} part of {folder} is a network of {network.spec.filters}, recipe "
            f"{recipe.name} wants {recipe.network.filters}; change the recipe or start at random"
        )
    return network.state_dict()
