"""U-Nets: shapes, the first bias, the spec's way to JSON and back, refusals."""

from dataclasses import replace

import pytest
import torch

from deepmir.errors import ConfigError
from deepmir.model.unet import (
    RARE_LOGIT,
    anatomy_spec,
    build_anatomy_network,
    build_findings_network,
    build_network,
    findings_spec,
    paper_spec,
    released_spec,
    released_state,
    spec_from_json,
    spec_to_json,
)


def test_findings_keep_the_grid_and_go_down_by_8_and_4():
    spec = findings_spec((2, 3, 4, 5))
    assert (spec.levels, spec.multiple, spec.norm) == (4, (8, 8, 4), "batch")
    with torch.inference_mode():
        logits = build_findings_network(spec).eval()(torch.zeros((2, 8, 16, 8, 4)))
    assert logits.shape == (2, 4, 16, 8, 4)


def test_anatomy_has_6_levels_and_goes_down_by_32():
    spec = anatomy_spec((2, 2, 2, 3, 3, 4))
    assert (spec.levels, spec.multiple, spec.norm) == (6, (32, 32, 32), "instance")
    with torch.inference_mode():
        logits = build_anatomy_network(spec).eval()(torch.rand((1, 6, 64, 32, 32)))
    assert logits.shape == (1, 19, 64, 32, 32)


def test_the_papers_network_has_6_levels_on_slices_and_31_million_weights():
    network = build_network(paper_spec(in_channels=3, out_channels=3))
    assert sum(weight.numel() for weight in network.parameters()) == pytest.approx(31.1e6, rel=1e-3)
    assert network.spec.multiple == (32, 32, 1)
    names = [type(module).__name__ for module in network.modules()]
    assert names.count("MaxPool2d") == names.count("ConvTranspose2d") == 5
    assert names.count("BatchNorm2d") == 2 * 11
    assert "LeakyReLU" not in names
    small = build_network(replace(network.spec, filters=(2, 2, 2, 2, 2, 3))).eval()
    with torch.inference_mode():
        assert small(torch.zeros((2, 3, 64, 32))).shape == (2, 3, 64, 32)


def test_a_network_on_slices_must_not_reach_along_k():
    with pytest.raises(ConfigError, match="works on slices"):
        build_network(replace(findings_spec((2, 2)), dimensions=2))


def test_findings_start_rare():
    bias = build_findings_network(findings_spec((2, 2))).head_bias
    assert bias.tolist() == pytest.approx([0, RARE_LOGIT, RARE_LOGIT, RARE_LOGIT])


def test_the_absolute_level_of_a_patch_survives_batch_normalisation():
    torch.manual_seed(0)
    network = build_findings_network(findings_spec((2, 2))).eval()
    with torch.inference_mode():
        low, high = (network(torch.full((1, 8, 4, 4, 2), level)) for level in (0.1, 0.9))
    assert not torch.allclose(low, high)


def test_spec_survives_json():
    spec = findings_spec((3, 5, 7))
    assert spec_from_json(spec_to_json(spec)) == spec


@pytest.mark.parametrize("text", ["", "{}", spec_to_json(findings_spec())[:-1] + ', "depth": 3}'])
def test_a_text_that_is_no_spec_is_refused(text):
    with pytest.raises(ConfigError, match="not a network spec"):
        spec_from_json(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"filters": (2,)}, "at least 2 levels"),
        ({"kernels": ((3, 3, 3),)}, "1 kernels"),
        ({"strides": ((2, 2, 2), (2, 2, 2))}, "keeps the grid"),
    ],
)
def test_levels_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        build_network(replace(findings_spec((2, 2)), **change))


# ---- memory ---------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [findings_spec, lambda: paper_spec(in_channels=8, out_channels=4)])
def test_checkpointing_changes_neither_gradients_nor_running_statistics(norm, dtype, make):
    spec = make()
    spec = replace(spec, filters=tuple(range(2, 2 + spec.levels)), norm=norm, supervised_levels=1)
    torch.manual_seed(0)
    image = torch.randn((2, 8, 32, 32, 8) if spec.dimensions == 3 else (2, 8, 64, 64))
    plain = build_network(spec)
    saving = build_network(spec)
    saving.load_state_dict(plain.state_dict())
    saving.checkpointing = True
    for network in (plain, saving):
        for _ in range(2):  # running statistics count the steps
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                levels = network.forward_levels(image)
            sum(level.float().square().mean() for level in levels).backward()
    for one, other in zip(plain.parameters(), saving.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
    buffers = dict(plain.named_buffers())
    assert bool(buffers) == (norm == "batch")
    for name, buffer in saving.named_buffers():
        assert torch.equal(buffer, buffers[name]), name


def test_checkpointing_keeps_less_for_the_gradient():
    kept = {}
    for saves in (False, True):
        network = build_network(findings_spec((2, 3, 4)))
        network.checkpointing = saves
        sizes = []

        def pack(tensor, sizes=sizes):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            network(torch.randn(1, 8, 16, 24, 8))
        kept[saves] = sum(sizes)
    assert kept[True] < 0.5 * kept[False]


def test_checkpointing_is_for_the_gradient_alone():
    network = build_network(findings_spec((2, 3))).eval()
    image = torch.randn(1, 8, 16, 24, 8)
    with torch.inference_mode():
        plain = network(image)
        network.checkpointing = True
        assert torch.equal(network(image), plain)


# ---- supervision of coarser levels ----------------------------------------------------------


def test_supervised_levels_have_logits_of_their_own_and_leave_no_trace_in_a_release():
    spec = replace(findings_spec((4, 6, 8)), supervised_levels=2)
    network = build_network(spec).eval()
    image = torch.randn(1, 8, 16, 24, 8)
    with torch.no_grad():
        levels = network.forward_levels(image)
        assert [tuple(level.shape) for level in levels] == [
            (1, 4, 16, 24, 8),
            (1, 4, 8, 12, 8),
            (1, 4, 4, 6, 4),
        ]
        released = build_network(released_spec(spec)).eval()
        released.load_state_dict(released_state(network.state_dict()))
        assert torch.equal(released(image), levels[0])
    assert len(released.coarse_heads) == 0


@pytest.mark.parametrize("levels", [-1, 3])
def test_more_supervised_levels_than_there_are_is_refused(levels):
    with pytest.raises(ConfigError, match="supervised levels"):
        build_network(replace(findings_spec((4, 6, 8)), supervised_levels=levels))
