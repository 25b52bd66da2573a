"""The processes of a run: torchrun starts them, torch.distributed connects them."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class World:
    """One process among `size` equal ones; alone, all methods do without torch.distributed.

    `control` carries what the processes agree on. It is a gloo group on every device: to wait for a decision
    does not wait for a GPU.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")
    control: distributed.ProcessGroup | None = None

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model with gradients averaged over the processes; buffers are the first one's."""
        if self.size == 1:
            return model
        device_ids = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=device_ids, gradient_as_bucket_view=True)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over all processes."""
        if self.size > 1:
            values = values.clone()
            distributed.all_reduce(values)
        return values

    def largest(self, value: int) -> int:
        """The largest value of any process."""
        if self.size == 1:
            return value
        values = torch.tensor(value)
        distributed.all_reduce(values, distributed.ReduceOp.MAX, group=self.control)
        return int(values)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return bool(self.largest(int(flag)))

    def gather(self, value: Any) -> list[Any]:
        """The value of every process, in the order of their ranks."""
        values = [value] * self.size
        if self.size > 1:
            distributed.all_gather_object(values, value, group=self.control)
        return values

    def copy_buffers(self, model: nn.Module) -> None:
        """Give every process the first one's buffers."""
        if self.size > 1:
            for buffer in model.buffers():
                distributed.broadcast(buffer, src=0)

    def on_first(self, action: Callable[[], Any]) -> Any:
        """Let the first process act; all get its result, or its ValueError or OSError."""
        if self.size == 1:
            return action()
        outcome: list[Any] = [None, None]
        if self.is_first:
            try:
                outcome[0] = action()
            except (ValueError, OSError) as error:
                outcome[1] = error
        distributed.broadcast_object_list(outcome, src=0, group=self.control)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]


def without_averaging(network: nn.Module) -> AbstractContextManager:
    """A context whose backward passes leave the gradients of the processes apart."""
    network = getattr(network, "_orig_mod", network)  # inside what torch.compile returns
    return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()


@contextmanager
def connect(device: str) -> Iterator[World]:
    """Join the processes that torchrun has started: gloo on CPUs, NCCL on GPUs, one GPU each."""
    size = int(os.environ.get("WORLD_SIZE", 1))
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        torch.cuda.set_device(device)
    if size == 1:
        yield World(device=torch.device(device))
        return
    distributed.init_process_group("gloo" if device == "cpu" else "nccl")
    try:
        yield World(distributed.get_rank(), size, torch.device(device), distributed.new_group(backend="gloo"))
    finally:
        distributed.destroy_process_group()
