"""Tensor-parallel ranks simulated by threads."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import Tensor


class Ranks:
    """all_gather among threads: a barrier before and after, and a log of what each rank sent."""

    def __init__(self, world: int) -> None:
        self.barrier = threading.Barrier(world, timeout=30)
        self.sent: list[list[Tensor]] = [[] for _ in range(world)]

    def all_gather(self, rank: int) -> Callable[[Tensor], Tensor]:
        def gather(x: Tensor) -> Tensor:
            self.sent[rank].append(x.clone())
            self.barrier.wait()
            everyone = torch.stack([sent[-1] for sent in self.sent])
            self.barrier.wait()
            return everyone

        return gather
