"""Processes that share every batch, one a GPU: torch's DistributedDataParallel around one loop.

    batch of a step ─▶ own part ─▶ logits ─▶ logits of all ─▶ loss of the whole batch
                                             gradients averaged ◀─ DistributedDataParallel

The parts put together are the batch that one process would make, and the loss is that of the
whole batch (Dice is no mean over samples), so the gradient is that of one process too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from deepmir.model.unet import UNet

Forward = Callable[[Tensor], tuple[Tensor, ...]]


@dataclass(frozen=True, slots=True)
class Share:
    """Which part of every batch a process makes."""

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes, validates and simulates."""
        return self.rank == 0

    def of(self, batch_size: int) -> range:
        """Places of the own samples in a batch.

        Examples
        --------
        >>> [list(Share(rank, 2).of(4)) for rank in (0, 1)]
        [[0, 1], [2, 3]]
        """
        own = batch_size // self.count
        return range(self.rank * own, (self.rank + 1) * own)


ALONE = Share()


@dataclass(frozen=True, slots=True)
class Team:
    """What the processes of a run do together; a run of one process has nobody to ask."""

    share: Share = ALONE

    def any(self, asked: bool) -> bool:  # noqa: FBT001 - the question itself
        """Whether it is so for any process; all must ask at the same time."""
        if self.share.count == 1:
            return asked
        answer = torch.tensor(int(asked))
        distributed.all_reduce(answer, distributed.ReduceOp.MAX)
        return bool(answer)

    def forward_of(self, network: UNet, device: torch.device) -> Forward:
        """Forward pass whose gradients are averaged over the processes.

        On GPUs batch normalisation is over the whole batch; on CPUs torch knows it over a
        process's own part only.
        """
        if self.share.count == 1:
            return network.forward_levels
        if device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        ids = [device.index] if device.type == "cuda" else None
        return cast(Forward, DistributedDataParallel(_Levels(network), device_ids=ids))

    def whole(self, part: Tensor) -> Tensor:
        """Put the parts of a batch together along the first axis; the own one has a gradient."""
        if self.share.count == 1:
            return part
        parts = [torch.empty_like(part) for _ in range(self.share.count)]
        distributed.all_gather(parts, part.detach().contiguous())
        parts[self.share.rank] = part
        return torch.cat(parts)


class _Levels(nn.Module):
    """Network whose forward pass gives all supervised levels."""

    def __init__(self, network: UNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Tensor) -> tuple[Tensor, ...]:
        return self.network.forward_levels(batch)
