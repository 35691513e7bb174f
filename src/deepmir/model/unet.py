"""U-Nets of any number of levels, built from MONAI's DynUNet blocks.

    anatomy   6 levels, 2 mm, whole head, instance normalisation
    findings  4 levels, native grid, batch normalisation
    slices    6 levels, 2-D slices, the paper's (doi:10.1038/s41598-021-93427-x)

The paper's U-Net halves its grid five times on slices; the released network is a coarse deep
part that sees the whole head and a fine shallow one that sees the lesions.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Literal, cast

import torch
from monai.networks.blocks.dynunet_block import UnetBasicBlock, UnetOutBlock, UnetUpBlock
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from deepmir.errors import ConfigError

Triple = tuple[int, int, int]

RARE_LOGIT = math.log(0.01)
"""First bias of a rare class: about one voxel in a hundred before any training."""


@checked_dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid"))
class UNetSpec:
    """All that must be known to build a network before its weights are filled in."""

    in_channels: int
    out_channels: int
    filters: tuple[int, ...]
    """Channels of each level, finest first; their number is the number of levels."""
    strides: tuple[Triple, ...]
    """Step along (I, J, K) into each level; the first is (1, 1, 1)."""
    kernels: tuple[Triple, ...]
    norm: Literal["batch", "instance"]
    """Instance normalisation erases the absolute susceptibility of a window: see findings."""
    supervised_levels: int = 0
    """Coarser levels with an output of their own while training (Lee 2015, deep supervision)."""
    dimensions: Literal[2, 3] = 3
    """With 2, batches are (B, C, I, J), and the last number of strides and kernels is 1."""
    activation: Literal["leakyrelu", "relu"] = "leakyrelu"
    down: Literal["stride", "maxpool"] = "stride"
    """How the grid is halved: a convolution that strides, or the largest of its voxels."""

    @property
    def levels(self) -> int:
        """Number of resolution levels."""
        return len(self.filters)

    @property
    def multiple(self) -> Triple:
        """Windows must be multiples of this along (I, J, K)."""
        i, j, k = (math.prod(step[axis] for step in self.strides) for axis in range(3))
        return i, j, k


@dataclass(frozen=True, slots=True)
class _LevelShape:
    kernel: tuple[int, ...]  # one number a dimension
    stride: tuple[int, ...]
    spec: UNetSpec

    @property
    def norm(self) -> tuple[str, dict[str, bool]]:
        return self.spec.norm, {"affine": True}

    @property
    def activation(self) -> tuple[str, dict[str, bool | float]]:
        if self.spec.activation == "relu":
            return "relu", {"inplace": True}
        return "leakyrelu", {"inplace": True, "negative_slope": 0.01}


class UNet(nn.Module):
    """Encoder and decoder with one skip connection a level."""

    checkpointing: bool = False
    """Whether only the outputs of the levels are kept for the gradient, and what lies inside a
    level is computed again for it: less memory, more time, equal numbers."""

    def __init__(self, spec: UNetSpec) -> None:
        super().__init__()
        check_spec(spec)
        self.spec = spec
        shapes = [
            _LevelShape(kernel[: spec.dimensions], stride[: spec.dimensions], spec)
            for kernel, stride in zip(spec.kernels, spec.strides, strict=True)
        ]
        widths = (spec.in_channels, *spec.filters)
        self.encoder = nn.ModuleList(
            _down(widths[level], widths[level + 1], shape) for level, shape in enumerate(shapes)
        )
        self.decoder = nn.ModuleList(
            _up(spec.filters[level], spec.filters[level - 1], shapes[level])
            for level in range(spec.levels - 1, 0, -1)
        )
        self.head = UnetOutBlock(spec.dimensions, spec.filters[0], spec.out_channels)
        self.coarse_heads = nn.ModuleList(
            UnetOutBlock(spec.dimensions, spec.filters[level + 1], spec.out_channels)
            for level in range(spec.supervised_levels)
        )

    def forward(self, batch: Tensor) -> Tensor:
        """Logits (B, out_channels, I, J, K) of a batch (B, in_channels, I, J, K); 2-D without K."""
        return cast(Tensor, self.head(self._decoded(batch)[0]))

    def forward_levels(self, batch: Tensor) -> tuple[Tensor, ...]:
        """Logits of the finest and of each supervised coarser level, finest first."""
        decoded = self._decoded(batch)
        coarser = zip(self.coarse_heads, decoded[1:], strict=False)
        return self.head(decoded[0]), *(head(level) for head, level in coarser)

    def _decoded(self, batch: Tensor) -> list[Tensor]:
        """Output of each level of the decoder, finest first."""
        skips: list[Tensor] = []
        for block in self.encoder:
            batch = self._through(block, batch)
            skips.append(batch)
        decoded = [skips.pop()]
        for block in self.decoder:
            decoded.append(self._through(block, decoded[-1], skips.pop()))
        return decoded[::-1]

    def _through(self, block: nn.Module, *inputs: Tensor) -> Tensor:
        """Output of one level."""
        if not (self.checkpointing and torch.is_grad_enabled()):
            return cast(Tensor, block(*inputs))
        return cast(
            Tensor,
            checkpoint(
                block,
                *inputs,
                use_reentrant=False,
                preserve_rng_state=False,  # nothing in a level is random
                context_fn=lambda: (nullcontext(), _buffers_aside(block)),
            ),
        )

    @property
    def head_bias(self) -> Tensor:
        """Bias of the last layer, one number an output channel."""
        return cast(Tensor, self.head.conv.conv.bias)


@contextmanager
def _buffers_aside(block: nn.Module) -> Iterator[None]:
    """While entered, running statistics go into copies: what is computed again counts once."""
    buffers = [
        (module, name, buffer)
        for module in block.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    for module, name, buffer in buffers:
        setattr(module, name, buffer.clone())
    try:
        yield
    finally:
        for module, name, buffer in buffers:
            setattr(module, name, buffer)


def _down(width_in: int, width_out: int, shape: _LevelShape) -> nn.Module:
    pooled = shape.spec.down == "maxpool" and max(shape.stride) > 1
    stride = (1,) * len(shape.stride) if pooled else shape.stride
    block = UnetBasicBlock(
        shape.spec.dimensions, width_in, width_out, shape.kernel, stride, shape.norm,
        act_name=shape.activation,
    )  # fmt: skip
    if not pooled:
        return cast(nn.Module, block)
    pool = {2: nn.MaxPool2d, 3: nn.MaxPool3d}[shape.spec.dimensions]
    return nn.Sequential(pool(shape.stride), block)


def _up(width_in: int, width_out: int, shape: _LevelShape) -> nn.Module:
    return cast(
        nn.Module,
        UnetUpBlock(
            shape.spec.dimensions, width_in, width_out, shape.kernel, 1, shape.stride, shape.norm,
            act_name=shape.activation,
        ),
    )  # fmt: skip


def check_spec(spec: UNetSpec) -> None:
    """Check that the levels of a network fit together.

    Raises
    ------
    ConfigError
        If there are not as many strides and kernels as filters, the first level strides, or a
        network on slices reaches along K.
    """
    if not len(spec.filters) == len(spec.strides) == len(spec.kernels) >= 2:
        raise ConfigError(
            f"a network needs one stride and one kernel for each of at least 2 levels, got "
            f"{len(spec.filters)} filters, {len(spec.strides)} strides, {len(spec.kernels)} kernels"
        )
    if not 0 <= spec.supervised_levels < spec.levels:
        raise ConfigError(
            f"{spec.supervised_levels} supervised levels of a network of {spec.levels}; "
            f"wanted 0 to {spec.levels - 1}"
        )
    if spec.strides[0] != (1, 1, 1):
        raise ConfigError(
            f"the first level keeps the grid: wanted (1, 1, 1), got {spec.strides[0]}"
        )
    if spec.dimensions == 2 and any(size[2] != 1 for size in (*spec.strides, *spec.kernels)):
        raise ConfigError(
            "a network of 2 dimensions works on slices: wanted strides and kernels whose last "
            f"number is 1, got {spec.strides} and {spec.kernels}"
        )


def findings_spec(filters: tuple[int, ...] = (16, 32, 64, 96)) -> UNetSpec:
    """Spec of the findings part: 8 channels in, 4 out; down by 8 in plane, by 4 along K.

    Batch normalisation: the absolute susceptibility of a patch is what tells a microbleed
    from a vein, and instance normalisation would divide it away.
    """
    strides = ((1, 1, 1), (2, 2, 1), *[(2, 2, 2)] * (len(filters) - 2))
    return UNetSpec(
        in_channels=8,
        out_channels=4,
        filters=filters,
        strides=strides,
        kernels=((3, 3, 3),) * len(filters),
        norm="batch",
    )


def anatomy_spec(filters: tuple[int, ...] = (16, 32, 48, 64, 80, 96)) -> UNetSpec:
    """Spec of the anatomy part: 6 channels in, 18 classes and the side out; down by 32."""
    return UNetSpec(
        in_channels=6,
        out_channels=19,
        filters=filters,
        strides=((1, 1, 1), *[(2, 2, 2)] * (len(filters) - 1)),
        kernels=((3, 3, 3),) * len(filters),
        norm="instance",
    )


def paper_spec(*, in_channels: int, out_channels: int) -> UNetSpec:
    """Spec of the paper's network: 2-D, six levels, pairs of convolution, batch norm and ReLU."""
    return UNetSpec(
        in_channels=in_channels,
        out_channels=out_channels,
        filters=(32, 64, 128, 256, 512, 1024),
        strides=((1, 1, 1), *[(2, 2, 1)] * 5),
        kernels=((3, 3, 1),) * 6,
        norm="batch",
        dimensions=2,
        activation="relu",
        down="maxpool",
    )


def build_network(spec: UNetSpec) -> UNet:
    """Build the network of a spec with random weights from torch's global generator.

    Raises
    ------
    ConfigError
        If the levels do not fit together.
    """
    return UNet(spec)


def build_findings_network(spec: UNetSpec | None = None) -> UNet:
    """Build a findings network whose three finding classes start rare.

    Raises
    ------
    ConfigError
        If the levels do not fit together.
    """
    network = build_network(spec or findings_spec())
    with torch.no_grad():
        network.head_bias.zero_()
        network.head_bias[1:] = RARE_LOGIT
    return network


def build_anatomy_network(spec: UNetSpec | None = None) -> UNet:
    """Build an anatomy network, all classes equal at the start.

    Raises
    ------
    ConfigError
        If the levels do not fit together.
    """
    return build_network(spec or anatomy_spec())


_SPEC: TypeAdapter[UNetSpec] = TypeAdapter(UNetSpec)


def released_spec(spec: UNetSpec) -> UNetSpec:
    """Spec of the same network without what serves training only."""
    return replace(spec, supervised_levels=0)


def released_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights without those of the supervised coarser levels."""
    return {name: value for name, value in state.items() if not name.startswith("coarse_heads.")}


def spec_to_json(spec: UNetSpec) -> str:
    """Spec as JSON text, for the header of a weights file."""
    return _SPEC.dump_json(spec).decode()


def spec_from_json(text: str) -> UNetSpec:
    """Spec from the header of a weights file.

    Raises
    ------
    ConfigError
        If the text is not a spec.
    """
    try:
        return _SPEC.validate_json(text)
    except ValidationError as error:
        raise ConfigError(f"not a network spec: {error.errors()[0]['msg']}") from error


def spec_fields(spec: UNetSpec) -> dict[str, object]:
    """Fields of a spec as plain values."""
    return asdict(spec)
