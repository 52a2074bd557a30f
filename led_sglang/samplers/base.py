"""What a method gets for one decode step, what it answers, and the registry of methods."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from torch import Tensor

from led_sglang.kernels import AllGather, LmHeadShard, NoiseStream, Step
from led_sglang.samplers.rows import RowTable
from led_sglang.samplers.soft_state import SoftState
from led_sglang.telemetry import Record


@dataclass(frozen=True)
class ModelView:
    """The parts of the loaded model that a method may call."""

    head: LmHeadShard
    # None without tensor parallelism
    all_gather: AllGather | None
    # vocabulary columns of each rank's head, in rank order
    shard_widths: tuple[int, ...]


@dataclass(frozen=True)
class LogitsContext:
    """The logits of a step as the model made them: no penalty, no grammar, no temperature yet."""

    logits: Tensor  # [B, V]; a method writes into it
    captured: Tensor  # [B, C, H] all captured residual streams, deepest layer first
    place_of: Tensor  # [layers + 1] int64: where h^l lies in `captured`
    table: RowTable
    model: ModelView


@dataclass(frozen=True)
class StepContext:
    """One decode step of a batch of B requests, all tensors on the device."""

    logits: Tensor  # [B, V] final logits; bias, penalties, grammar, custom processors applied
    latents: Tensor  # [B, C, H] LED's residual streams, deepest first: [:, -1] is h^{L-1}
    positions: Tensor  # [B] int64 position of each row's last input token
    slots: Tensor  # [B] int64 request slots
    temperature: Tensor  # [B] f32, > 0
    thinking: Tensor  # [B] bool: the token is sampled in the think phase
    phases: Tensor  # [B] int64, `Phase`
    thinks_after: Callable[[Tensor], Tensor]  # token ids [B] -> [B] bool: still thinking then
    think_end: Tensor  # [n] int64, the delimiter; empty without a think phase
    table: RowTable
    model: ModelView
    step: Step  # who computes LED's step
    noise: NoiseStream  # of the rows without a seed
    soft: SoftState | None  # where a soft method is enabled


@dataclass(frozen=True)
class Picks:
    """A method's answer: tokens for the rows it owns, and what to remember of the step."""

    owned: Tensor  # [B] bool
    token_ids: Tensor  # [B] int64; used where owned
    record: Record


class Method(Protocol):
    """A sampling method: picks the tokens of the rows it owns, leaves all others alone.

    Attributes:
        samplers: the values of `custom_params.sampler` that it serves.
    """

    samplers: tuple[str, ...]

    def step(self, context: StepContext) -> Picks:
        """One step of a batch that holds at least one row of the method."""


class LogitsMethod(Protocol):
    """A method that changes the logits of its rows and leaves sampling to the engine."""

    samplers: tuple[str, ...]

    def reshape(self, context: LogitsContext) -> None:
        """Change the logits of its rows in place; the batch holds at least one."""


_M = TypeVar("_M", Method, LogitsMethod)


class Registry(Generic[_M]):
    """Methods by the samplers they serve."""

    def __init__(self, methods: Sequence[_M]) -> None:
        self._methods: tuple[_M, ...] = tuple(methods)

    def serving(self, samplers: Iterable[str]) -> list[_M]:
        """The methods that have a part in a batch with these samplers, in a fixed order."""
        wanted = set(samplers)
        return [method for method in self._methods if wanted & set(method.samplers)]
