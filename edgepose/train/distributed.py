"""Let several processes, as ``torchrun`` starts them, train together; a single process is rank 0 of 1."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from ..core.errors import UsageError


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those that train together.

    Attributes:
        rank: number of this process, from 0, over all machines.
        world: number of processes.
        device: the device this process works on.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """True in the one process that tests, writes files and prints."""
        return self.rank == 0

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """Average every value over the processes. All must call this, with the same names."""
        if self.world == 1:
            return values
        summed = torch.tensor(list(values.values()), dtype=torch.float64, device=self.device)
        distributed.all_reduce(summed)
        return dict(zip(values, (summed / self.world).tolist(), strict=True))

    def sum(self, counts: torch.Tensor) -> torch.Tensor:
        """Add up counts over the processes. All must call this, with the same shape; ``counts`` may be changed."""
        if self.world > 1:
            distributed.all_reduce(counts)
        return counts

    def share(self, value: Any) -> Any:
        """Return the first process's value in all of them. All must call this."""
        if self.world == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, device=self.device)
        return box[0]

    def wait(self) -> None:
        """Return once all processes have called this."""
        if self.world > 1:
            distributed.barrier()


@contextmanager
def join(device: str) -> Iterator[Ranks]:
    """Join the processes that ``torchrun`` started: NCCL between GPUs (``cuda`` is each one's own), gloo between CPUs.

    Raises:
        UsageError: the device cannot be used.
    """
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world > 1 and device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    require_device(device)
    if world == 1:
        yield Ranks(0, 1, torch.device(device))
        return
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    # The others wait while the first process tests on a whole data set.
    patience = timedelta(hours=6)
    distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=patience)
    try:
        yield Ranks(distributed.get_rank(), world, torch.device(device))
    finally:
        distributed.destroy_process_group()


def require_device(device: str) -> None:
    """Raise UsageError for a device on which PyTorch cannot allocate memory, such as ``cuda`` without a GPU."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: a PyTorch without CUDA
        raise UsageError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}; use cpu") from error
