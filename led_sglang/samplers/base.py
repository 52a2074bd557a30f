"""What a method gets for one decode step, and the registry of methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from led_sglang.kernels import LedResult, LedRows, LmHeadShard
from led_sglang.randomness import NoiseSource
from led_sglang.samplers.rows import RowTable


@dataclass(frozen=True)
class ModelView:
    """The parts of the loaded model that a method may call."""

    head: LmHeadShard
    # [M, H] -> [M, H]
    final_norm: Callable[[Tensor], Tensor] | None
    # [M, n] -> [ranks, M, n] in rank order; None without tensor parallelism
    all_gather: Callable[[Tensor], Tensor] | None


@dataclass(frozen=True)
class StepContext:
    """One decode step of a batch of B requests, all tensors on the device."""

    logits: Tensor  # [B, V] final logits; bias, penalties, grammar, custom processors applied
    latents: Tensor  # [B, C, H] captured residual streams, deepest first: [:, -1] is h^{L-1}
    positions: Tensor  # [B] int64 position of each row's last input token
    rows: LedRows  # per-row parameters, who owns the row and whether it thinks
    table: RowTable
    model: ModelView
    noise: NoiseSource


class Method(Protocol):
    """A sampling method: picks the tokens of the rows it owns, leaves all others alone."""

    name: str

    def step(self, context: StepContext) -> LedResult:
        """Picks for all rows, and what led to them; only those of `rows.owns` are used."""


class Registry:
    """Methods by name."""

    def __init__(self, methods: Sequence[Method]) -> None:
        self._methods = {method.name: method for method in methods}

    def get(self, name: str) -> Method:
        """The method called `name`.

        Raises:
            KeyError: lists the names there are.
        """
        if name not in self._methods:
            raise KeyError(f"no sampling method {name!r}; there are: {', '.join(self._methods)}")
        return self._methods[name]
