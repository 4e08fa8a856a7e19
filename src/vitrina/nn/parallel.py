"""One process or several: what `torchrun` started, seen from the training loop.

    torchrun --nproc-per-node 2 train.py        each process takes its share of every batch

`share` cuts a batch by rows, `wrap` sums gradients over the processes, `sum` adds up losses, so that the step
of several processes is the step that one would take.
"""

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class World:
    """This process among `size`."""

    rank: int = 0
    size: int = 1
    sharded: bool = False
    """Whether weights and optimiser state are split among the processes (FSDP2), or each holds all (DDP)."""

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module to call in a step: gradients come out averaged over the processes."""
        if self.size == 1:
            return module
        if self.sharded:
            from torch.distributed.fsdp import fully_shard

            return fully_shard(module)
        return nn.parallel.DistributedDataParallel(module, find_unused_parameters=True)

    def share(self, batch: Any) -> Any:
        """This process's rows of a batch; a batch has `rows(lo, hi)` and a length where there are several."""
        if self.size == 1:
            return batch
        bounds = [len(batch) * r // self.size for r in range(self.size + 1)]
        return batch.rows(bounds[self.rank], bounds[self.rank + 1])

    def sum(self, loss_sum: Tensor, n_terms: Tensor) -> tuple[float, int]:
        """Summed losses and terms of all processes."""
        if self.size == 1:
            return float(loss_sum), int(n_terms)
        both = torch.stack([loss_sum.double(), n_terms.double()])
        torch.distributed.all_reduce(both)
        return float(both[0]), int(both[1])


def world() -> World:
    """The processes that `torchrun` started, connected on the first call; one where it was not used.

    `VITRINA_FSDP=1` splits weights and optimiser state among them.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return World()
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return World(
        torch.distributed.get_rank(),
        torch.distributed.get_world_size(),
        os.environ.get("VITRINA_FSDP", "0") == "1",
    )
