"""A hand-made network with the released one's inputs and outputs, and answers known in advance.

Anatomy: brain is where T2w or swi has signal or χ is not 0. From its centre outwards lie
pallidum and putamen, then cerebellum (low), frontal (in front), occipital (behind), parietal;
right is right of its centre. Findings: a voxel with scaled swi < -1 and scaled χ > 1 (each
where present) is IRON in the basal ganglia and CMB elsewhere; scaled χ < -1 is CALCIFICATION.
Nuclei, where asked for: what the anatomy part calls putamen is a caudate; there is no pallidum.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from deepmir.labels import REGIONS, Finding
from deepmir.model.weights import ModelCard, write_manifest

PALLIDUM, PUTAMEN = 16, 15  # classes of the anatomy part
CEREBELLUM, FRONTAL, PARIETAL, OCCIPITAL = 2, 9, 10, 12
CARD = ModelCard(
    summary="Hand-made for tests; knows no anatomy.",
    training_data="none",
    evaluation="none",
    limits="tests only",
)


class _Graph:
    """Collects nodes; every method gives the name of its result."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, value, dtype=np.float32) -> str:
        name = f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.array(value, dtype=dtype), name))
        return name

    def __call__(self, op: str, *inputs, **attributes) -> str:
        names = [x if isinstance(x, str) else self.constant(x) for x in inputs]
        name = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, names, [name], **attributes))
        return name

    def channel(self, source: str, index: int) -> str:
        at = [self.constant([n], np.int64) for n in (index, index + 1, 1)]
        return self("Slice", source, *at)

    def total(self, x: str) -> str:
        return self("ReduceSum", x, self.constant([2, 3, 4], np.int64), keepdims=1)

    def is_true(self, condition: str) -> str:
        return self("Cast", condition, to=TensorProto.FLOAT)

    def model(self, result: str, n_in: int, n_out: int) -> onnx.ModelProto:
        shape = ["b", None, "i", "j", "k"]
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [shape[0], n, *shape[2:]])
            for name, n in (("input", n_in), ("logits", n_out))
        ]
        self.nodes.append(helper.make_node("Identity", [result], ["logits"]))
        graph = helper.make_graph(self.nodes, "tiny", ends[:1], ends[1:], self.initializers)
        opsets = [helper.make_opsetid("", 17)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        onnx.checker.check_model(model)
        return model


def anatomy_model() -> onnx.ModelProto:
    """Network of the anatomy part: (1, 6, I, J, K) to (1, 19, I, J, K)."""
    g = _Graph()
    signal = g("Max", g.channel("input", 0), g.channel("input", 1))
    chi = g("Mul", g("Abs", g.channel("input", 2)), 10.0)
    brain = g.is_true(g("Greater", g("Max", signal, chi), 0.02))
    d = [_offset(g, brain, axis) for axis in (2, 3, 4)]
    r = g(
        "Sqrt", g("Add", g("Add", g("Mul", d[0], d[0]), g("Mul", d[1], d[1])), g("Mul", d[2], d[2]))
    )
    region = g("Where", g("Less", d[1], -0.6), float(OCCIPITAL), float(PARIETAL))
    region = g("Where", g("Greater", d[1], 0.6), float(FRONTAL), region)
    region = g("Where", g("Less", d[2], -0.8), float(CEREBELLUM), region)
    region = g("Where", g("Less", r, 1.1), float(PUTAMEN), region)
    region = g("Where", g("Less", r, 0.7), float(PALLIDUM), region)
    logits = [g("Sub", 4.0, g("Mul", brain, 8.0))]
    for index in range(1, len(REGIONS) + 2):
        here = g.is_true(g("Equal", region, float(index)))
        logits.append(g("Sub", g("Mul", g("Mul", here, brain), 24.0), 20.0))
    logits.append(g("Mul", d[0], 20.0))
    return g.model(g("Concat", *logits, axis=1), 6, 19)


def findings_model() -> onnx.ModelProto:
    """Network of the findings part: (B, 8, I, J, K) to (B, 4, I, J, K)."""
    g = _Graph()
    swi, chi = g.channel("input", 1), g.channel("input", 2)
    has_swi, has_chi = g.channel("input", 4), g.channel("input", 5)
    deep = g("Greater", g.channel("input", 7), 0.5)
    dark = g("Where", g("Greater", has_swi, 0.5), g("Sub", -1.0, swi), 9.0)
    above = g("Where", g("Greater", has_chi, 0.5), g("Sub", chi, 1.0), 9.0)
    below = g("Where", g("Greater", has_chi, 0.5), g("Sub", -1.0, chi), -9.0)
    blood = g("Min", dark, above)
    scores = [
        g("Where", deep, -1.0, blood),
        g("Where", deep, blood, -1.0),
        below,
    ]
    background = g("Mul", swi, 0.0)
    sharp = [g("Clip", g("Mul", score, 50.0), -6.0, 6.0) for score in scores]
    return g.model(g("Concat", background, *sharp, axis=1), 8, 4)


def nuclei_model() -> onnx.ModelProto:
    """Network of the nuclei part: (1, 10, I, J, K) to (1, 5, I, J, K)."""
    g = _Graph()
    putamen = g("Sub", g.channel("input", 8), 0.5)
    none = g("Mul", putamen, 0.0)
    never = g("Sub", none, 1.0)
    return g.model(g("Concat", none, never, putamen, never, never, axis=1), 10, 5)


def build_tiny_weights(folder: Path, *, nuclei: bool = False) -> Path:
    """Write a complete weights folder, manifest included, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(anatomy_model(), folder / "anatomy.onnx")
    onnx.save(findings_model(), folder / "findings.onnx")
    if nuclei:
        onnx.save(nuclei_model(), folder / "nuclei.onnx")
    numbers = {"anatomy.none": np.zeros(1, np.float16), "findings.none": np.zeros(1, np.float16)}
    save_file(numbers, folder / "weights.safetensors")
    (folder / "MODEL_CARD.md").write_text("# Tiny network\n\nFor tests only.\n", encoding="utf-8")
    thresholds = dict.fromkeys(Finding, 0.5)
    write_manifest(folder, name="tiny", version="0.0.1", thresholds=thresholds, card=CARD)
    return folder


def _offset(g: _Graph, brain: str, axis: int) -> str:
    """Distance from the brain's centre along an axis, in its standard deviations."""
    ones = g("Add", g("Mul", brain, 0.0), 1.0)
    at = g("CumSum", ones, g.constant(axis, np.int64))
    n = g("Max", g.total(brain), 1.0)
    away = g("Sub", at, g("Div", g.total(g("Mul", at, brain)), n))
    variance = g("Div", g.total(g("Mul", g("Mul", away, away), brain)), n)
    return g("Div", away, g("Sqrt", g("Add", variance, 1e-6)))
