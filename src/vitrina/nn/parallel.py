"""One process or several: what `torchrun` started, seen from the training loop.

    torchrun --nproc-per-node 2 train.py                    DDP: every process holds all weights
    VITRINA_FSDP=1 torchrun --nproc-per-node 2 train.py     FSDP2: weights and optimiser state are split

Each process takes its rows of every batch; gradients come out averaged over the processes. The loss that goes
into `backward` is the sum over the process's rows times (processes / terms of all), so that the average is
the gradient of the mean over the whole batch: the step that one process would take.
"""

import atexit
import copy
import os
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vitrina.errors import ConfigError
from vitrina.nn import device


class Share(NamedTuple):
    """What one process takes of a batch."""

    batch: Any
    weight: float
    """1, or 0 where there are fewer rows than processes: the first row then goes through without counting,
    so that every process computes a gradient of every parameter and none waits for another."""


class Said(NamedTuple):
    """What all processes agree on after the forward part of a step."""

    loss_sum: float
    n_terms: int
    is_due: bool
    """Whether the first process wants a checkpoint written."""


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
        """The module to call in a step: its gradients are averages over the processes.

        DDP shares the parameters of `module`. FSDP2 trains a copy whose parameters are split: each entry of a
        `ModuleList` is gathered while it is computed, everything else for the whole step; `collect` brings
        the weights back.
        """
        if self.size == 1:
            return module
        if not self.sharded:
            return nn.parallel.DistributedDataParallel(module)
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        for tensor in module.state_dict().values():
            torch.distributed.broadcast(tensor, 0)
        mesh = init_device_mesh(_device().type, (self.size,))
        module = copy.deepcopy(module)
        for part in list(module.modules()):
            if isinstance(part, nn.ModuleList):
                for block in part:
                    fully_shard(block, mesh=mesh)
        fully_shard(module, mesh=mesh)
        return module

    def part_ways(self) -> None:
        """Give this process random numbers of its own, so that dropout differs between parts of a batch."""
        if self.rank:
            torch.manual_seed(torch.initial_seed() + self.rank)

    def collect(self, wrapped: nn.Module, module: nn.Module) -> None:
        """Copy the split weights into the module they were split from, whole, in every process."""
        if self.size == 1 or not self.sharded:
            return
        split = wrapped.state_dict()
        with torch.no_grad():
            for name, tensor in module.state_dict().items():
                tensor.copy_(whole(split[name]))

    def share(self, batch: Any) -> Share:
        """This process's rows of a batch, which has `rows(slice)` and a length where there are several.

        Every `size`-th, so that processes have as much to do where rows are sorted by length.
        """
        if self.size == 1:
            return Share(batch, 1.0)
        if not hasattr(batch, "rows"):
            raise ConfigError(
                f"a {type(batch).__name__} cannot be shared by {self.size} processes; give it rows(slice) "
                "and a length, or train in one process"
            )
        if self.rank >= len(batch):
            return Share(batch.rows(slice(0, 1)), 0.0)
        return Share(batch.rows(slice(self.rank, None, self.size)), 1.0)

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            torch.distributed.barrier()

    def agree(self, loss_sum: float, n_terms: int, *, is_due: bool) -> Said:
        """Losses and terms of all processes, and the first one's wish for a checkpoint."""
        if self.size == 1:
            return Said(loss_sum, n_terms, is_due)
        figures = [loss_sum, n_terms, float(is_due and self.is_first)]
        three = torch.tensor(figures, dtype=torch.float64, device=_device())
        torch.distributed.all_reduce(three)
        return Said(float(three[0]), int(three[1]), bool(three[2]))

    def first_says(self, value: float) -> float:
        """The first process's value, in every process."""
        if self.size == 1:
            return value
        one = torch.tensor([value], dtype=torch.float64, device=_device())
        torch.distributed.broadcast(one, 0)
        return float(one[0])

    def each_says(self, value: Tensor) -> list[Tensor]:
        """Each process's value, in the order of ranks; only their lengths may differ."""
        if self.size == 1:
            return [value]
        lengths = self.all_say(torch.tensor([len(value)]))[:, 0].tolist()
        padded = value.new_zeros(max(lengths), *value.shape[1:])
        padded[: len(value)] = value
        return [row[:n] for row, n in zip(self.all_say(padded), lengths, strict=True)]

    def all_say(self, value: Tensor) -> Tensor:
        """One row a process, in the order of ranks; values have one shape."""
        if self.size == 1:
            return value[None]
        mine = value.to(_device())
        every = [torch.empty_like(mine) for _ in range(self.size)]
        torch.distributed.all_gather(every, mine)
        return torch.stack(every).to(value.device)


def whole(tensor: Tensor) -> Tensor:
    """A tensor that FSDP2 has split, put together again; any other as it is. Every process must call it."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor.detach() if gather is None else gather().detach()


def split_like(tensor: Tensor, param: Tensor) -> Tensor:
    """This process's part of a whole tensor, cut as the parameter is; all of it where that is not cut."""
    mesh = getattr(param, "device_mesh", None)
    if mesh is None or tensor.shape != param.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    tensor = tensor.to(mesh.device_type)
    return distribute_tensor(tensor, mesh, param.placements, src_data_rank=None)  # type: ignore[attr-defined]


def world() -> World:
    """The processes that `torchrun` started, connected on the first call; one where it was not used.

    `VITRINA_FSDP=1` splits weights and optimiser state among them.
    """
    if not torch.distributed.is_available():
        return World()
    if not torch.distributed.is_initialized():
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return World()
        on = device.chosen()
        if on.type == "cuda":
            torch.cuda.set_device(on)
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if on.type == "cuda" else "gloo")
        atexit.register(_leave)
    size = torch.distributed.get_world_size()
    sharded = size > 1 and os.environ.get("VITRINA_FSDP", "0") == "1"
    return World(torch.distributed.get_rank(), size, sharded)


def _leave() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _device() -> torch.device:
    """Where processes exchange figures, and where FSDP2 keeps its parts."""
    backends = torch.distributed.get_backend_config() if torch.distributed.is_initialized() else ""
    return device.chosen() if "nccl" in backends else torch.device("cpu")
