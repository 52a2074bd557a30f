"""What a method gets for one decode step, what it answers, and the registry of methods."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from led_sglang.kernels import LmHeadShard
from led_sglang.randomness import NoiseSource
from led_sglang.samplers.rows import RowTable
from led_sglang.telemetry import Record


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
    latents: Tensor  # [B, C, H] LED's residual streams, deepest first: [:, -1] is h^{L-1}
    positions: Tensor  # [B] int64 position of each row's last input token
    temperature: Tensor  # [B] f32, > 0
    thinking: Tensor  # [B] bool: the token is sampled in the think phase
    phases: Tensor  # [B] int64, `Phase`
    table: RowTable
    model: ModelView
    noise: NoiseSource


@dataclass(frozen=True)
class Picks:
    """A method's answer: tokens for the rows it owns, and what to remember of the step."""

    owned: Tensor  # [B] bool
    token_ids: Tensor  # [B] int64; used where owned
    record: Record | None


class Method(Protocol):
    """A sampling method: picks the tokens of the rows it owns, leaves all others alone.

    Attributes:
        samplers: the values of `custom_params.sampler` that it serves.
    """

    samplers: tuple[str, ...]

    def step(self, context: StepContext) -> Picks:
        """One step of a batch that holds at least one row of the method."""


class Registry:
    """Methods by the samplers they serve."""

    def __init__(self, methods: Sequence[Method]) -> None:
        self._methods = tuple(methods)

    def serving(self, samplers: Iterable[str]) -> list[Method]:
        """The methods that have a part in a batch with these samplers, in a fixed order."""
        wanted = set(samplers)
        return [method for method in self._methods if wanted & set(method.samplers)]
