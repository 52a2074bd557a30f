"""What SoftThinking keeps between the steps of a request: its next input and its cold-stop count.

Static tables by request slot, written in place, so that a captured CUDA graph reads the live ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from led_sglang.methods.soft_thinking.params import MAX_TOPK


@dataclass(frozen=True)
class SoftState:
    """Tables of S request slots."""

    ids: Tensor  # [S, MAX_TOPK] int64: with the weights the mixture that the next decode step reads
    weights: Tensor  # [S, MAX_TOPK] f32
    active: Tensor  # [S] bool: the slot's next input is the mixture; else its token
    # [S] int64: consecutive steps of low entropy; -n: n tokens of a forced think end are out
    streak: Tensor

    @classmethod
    def allocate(cls, slots: int, device: torch.device | str) -> SoftState:
        return cls(
            ids=torch.zeros(slots, MAX_TOPK, dtype=torch.int64, device=device),
            weights=torch.zeros(slots, MAX_TOPK, device=device),
            active=torch.zeros(slots, dtype=torch.bool, device=device),
            streak=torch.zeros(slots, dtype=torch.int64, device=device),
        )

    def begin(self, slots: Tensor, streaks: Tensor) -> None:
        """Requests [B] enter or re-enter these slots: hard inputs until their next token."""
        # not by assignment, which would move the scalar to the device and wait for it
        self.active.index_fill_(0, slots, False)
        self.streak[slots] = streaks

    def store(
        self, slots: Tensor, ids: Tensor, weights: Tensor, active: Tensor, streak: Tensor
    ) -> None:
        """What D requests have just emitted: mixtures [D, K], whether they are fed, counts [D]."""
        width = ids.shape[1]
        self.ids[slots, :width] = ids
        self.weights[slots, :width] = weights
        self.weights[:, width:].index_fill_(0, slots, 0.0)
        self.active[slots] = active
        self.streak[slots] = streak
