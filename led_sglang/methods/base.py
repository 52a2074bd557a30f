"""What a sampling method is: its names and parameters, and what it does in a step.

A method is one folder: `params` (what a request may set), `rows` (how a batch carries it),
`sampler` (the step) and `record` (what a step leaves behind). `registry.py` lists the methods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from led_sglang.methods.parameter import Column, Parameter, parameters_of, parse_group
from led_sglang.settings import ServerSettings

if TYPE_CHECKING:  # the command line reads the registry before it imports torch
    import torch
    from torch import Tensor

    from led_sglang.kernels import AllGather, LmHeadShard, NoiseStream, Step, ThinkPhase
    from led_sglang.methods.reporting import Record, Reporting
    from led_sglang.methods.rows import RowTable


@dataclass(frozen=True)
class LoadedModel:
    """What a method may use of the loaded model and its ranks.

    Attributes:
        head: this rank's LM head.
        step: who computes LED's steps.
        all_gather: [M, n] -> [ranks, M, n] in rank order; None without tensor parallelism.
        shard_widths: vocabulary columns of each rank's head, in rank order.
        noise: the server's own stream, equal on every rank.
        place_of: [layers + 1] int64: where h^l lies among the captured streams.
        think_end: [n] int64 ids of the delimiter; empty without a think phase.
    """

    head: LmHeadShard
    step: Step
    all_gather: AllGather | None
    shard_widths: tuple[int, ...]
    noise: NoiseStream
    place_of: Tensor
    think_end: Tensor


@dataclass(frozen=True)
class LogitsContext:
    """The logits of a step as the model made them: no penalty, no grammar, no temperature yet."""

    logits: Tensor  # [B, V]; a method writes into it
    captured: Tensor  # [B, C, H] all captured residual streams, deepest layer first
    table: RowTable


@dataclass(frozen=True)
class StepContext:
    """One decode step of a batch of B requests, all tensors on the device."""

    logits: Tensor  # [B, V] final logits; bias, penalties, grammar, custom processors applied
    latents: Tensor  # [B, C, H] LED's residual streams, deepest first: [:, -1] is h^{L-1}
    positions: Tensor  # [B] int64 position of each row's last input token
    slots: Tensor  # [B] int64 request slots
    temperature: Tensor  # [B] f32, > 0
    phase: ThinkPhase | None  # of the rows; None without delimiters: all of an answer is thought
    table: RowTable


@dataclass(frozen=True)
class Behaviour:
    """q, which the tokens of the owned rows were drawn from (docs/method.md#log-probabilities)."""

    ids: Tensor  # [B, K] int64 candidates
    probs: Tensor  # [B, K] f32 q; 0: cannot be drawn
    logprobs: Tensor  # [B] f32 log q of the token
    reported: Tensor  # [B] bool: rows whose token's log-probability it is


@dataclass(frozen=True)
class Picks:
    """A method's answer: tokens for the rows it owns, and what to remember of the step."""

    owned: Tensor  # [B] bool
    token_ids: Tensor  # [B] int64; used where owned
    record: Record | None = None
    behaviour: Behaviour | None = None  # where a row's answer holds q
    # Given: does itself what follows the engine's sampling, see `Step.settle`: writes the tokens
    # and moves the think phase of all rows on. The flag says whether it still writes.
    settle: Callable[[Tensor, bool], None] | None = None


@runtime_checkable
class TokenSampler(Protocol):
    """A method at work that picks the tokens of its rows and leaves all others alone."""

    def step(self, context: StepContext) -> Picks:
        """One step of a batch that holds at least one row of the method."""


@runtime_checkable
class LogitsChanger(Protocol):
    """A method at work that changes the logits of its rows and leaves sampling to the engine."""

    def change(self, context: LogitsContext) -> None:
        """Change the logits of its rows in place; the batch holds at least one."""


class Method:
    """One sampling method, under one name or several: what is declared of it.

    Its module imports no torch; `statistics`, `allocate` and `bind` import what does the work.

    Attributes:
        samplers: the values of `custom_params.sampler` that it serves.
        params: its parameters, a dataclass of `parameter` fields.
        columns: what a row of a batch carries of them.
        summary: key of `meta_info` with a request's running statistics.
        lists: keys of `meta_info` with one entry per token.
        has_sampling_mask: `return_sampling_mask` can be answered: the tokens come from a set.
    """

    samplers: ClassVar[tuple[str, ...]]
    params: ClassVar[type]
    columns: ClassVar[tuple[Column, ...]] = ()
    summary: ClassVar[str] = ""
    lists: ClassVar[tuple[str, ...]] = ()
    has_sampling_mask: ClassVar[bool] = True

    def parameters(self, sampler: str) -> tuple[Parameter, ...]:
        """The keys of the group `custom_params.<sampler>`."""
        return parameters_of(self.params, sampler)

    def parse(self, sampler: str, group: Mapping[str, Any], settings: ServerSettings) -> Any:
        """A request's group as the method's `params`.

        Raises:
            ParameterError: a key or value that is not offered.
        """
        return self.params(**parse_group(sampler, group, self.parameters(sampler), settings))

    def check(self, params: Any, top_k: int) -> None:
        """Check parameters against the request's own `top_k`; temperature 0 counts as 1.

        Raises:
            ParameterError: they do not go together.
        """

    def for_answer(self, params: Any, *, logprobs: bool, sampling_mask: bool) -> Any:
        """Parameters that know what the answer holds beside the tokens: each token's
        log-probability, the set it was drawn from."""
        return params

    def statistics(self) -> Reporting | None:
        """New statistics of one request; None where the method keeps none."""
        return None

    def allocate(self, slots: int, device: torch.device | str) -> Any:
        """What the method keeps by request slot, made before graphs are captured; or None."""
        return None

    def bind(self, model: LoadedModel, state: Any) -> TokenSampler | LogitsChanger:
        """The method at work on a loaded model.

        Args:
            state: what `allocate` returned.
        """
        raise NotImplementedError
