"""Per-row LED state of a batch: parameters that move with the rows, and the think phase by slot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from led_sglang.patches.hooks import hook
from sglang.srt.sampling.sampling_params import TOP_K_ALL
from torch import Tensor

from led_sglang.params import LedParams
from led_sglang.phase import DeviceTables, Phase, ThinkAutomaton
from led_sglang.samplers import PLAIN_ROW, Filters, Row, RowTable
from led_sglang.settings import ServerSettings

# Attributes this file adds to SGLang's objects.
TABLE_ATTRIBUTE = "led_rows"  # SamplingBatchInfo: RowTable or None
STEP_ATTRIBUTE = "led_step"  # SamplingBatchInfo: StepInputs
REQUEST_ATTRIBUTE = "led_sampling"  # Req: RequestSampling, set when the request is created
HISTORY_ATTRIBUTE = "led_soft_history"  # Req: SoftHistory of a soft request
_PROMPT_STATE_ATTRIBUTE = "led_prompt_state"  # Req: phase state after the prompt

# Rows that continue decoding keep the state of their slot.
_KEEP = -1
# SGLang's own seed for requests without one under deterministic inference.
_DETERMINISTIC_SEED = 42


@dataclass(frozen=True)
class StepInputs:
    """Where a step's rows keep their phase, and the states of rows that were just prefilled."""

    slots: Tensor  # [B] request slots
    initial: Tensor | None  # [B] int64, -1: keep the slot's state; None: all keep


class PhaseTracker:
    """The think phase of every request slot, advanced on the device.

    Under the overlap scheduler the host learns a token one step late; the device never does.
    """

    def __init__(self, automaton: ThinkAutomaton, slots: int, vocab_size: int, device: Any) -> None:
        self._tables: DeviceTables = automaton.device_tables(vocab_size, device)
        self._phases = torch.tensor(
            [automaton.phase(state) for state in range(automaton.num_states)], device=device
        )
        self._states = torch.zeros(slots, dtype=torch.int64, device=device)

    def begin(self, step: StepInputs) -> tuple[Tensor, Tensor, Tensor]:
        """States [B], whether they think [B] bool, and their phases [B], before sampling."""
        states = self._states[step.slots]
        if step.initial is not None:
            states = torch.where(step.initial == _KEEP, states, step.initial)
        return states, self._tables.thinking(states), self._phases[states]

    def thinks_after(self, states: Tensor, token_ids: Tensor) -> Tensor:
        """[B] bool: whether rows in `states` still think once they have sampled these tokens."""
        return self._tables.thinking(self._tables.advance(states, token_ids))

    def finish(self, step: StepInputs, states: Tensor, token_ids: Tensor) -> None:
        """Move every row's slot on by the token it sampled."""
        self._states[step.slots] = self._tables.advance(states, token_ids.long())


def automaton_of(settings: ServerSettings) -> ThinkAutomaton | None:
    """The automaton of the server's delimiters; None where the think phase is off."""
    if not settings.has_delimiters:
        return None
    return ThinkAutomaton(
        settings.think_start_ids,
        settings.think_end_ids,
        settings.boundary_ids,
        settings.tool_start_ids,
    )


def seed_of(sampling_params: Any) -> int | None:
    """The seed a request draws with; deterministic inference gives every request one."""
    from sglang.srt.runtime_context import get_exec

    seed: int | None = sampling_params.sampling_seed
    if seed is None and get_exec().deterministic.enable_deterministic_inference:
        return _DETERMINISTIC_SEED
    return seed


def request_row(req: Any) -> Row:
    """The host record of a request, parsed when it was created."""
    sampling = getattr(req, REQUEST_ATTRIBUTE, None)
    if sampling is None or sampling.params is None:
        return PLAIN_ROW
    params = req.sampling_params
    return Row(
        sampling.sampler,
        sampling.params,
        # SGLang turns temperature 0 into top_k 1 at temperature 1
        greedy=params.top_k <= 1,
        seed=seed_of(params),
        filters=Filters(
            params.top_k if params.top_k < TOP_K_ALL else -1, params.top_p, params.min_p
        ),
    )


def table_of(sampling_info: Any) -> RowTable | None:
    """The rows of a batch, or None where the engine alone samples all of them."""
    return getattr(sampling_info, TABLE_ATTRIBUTE, None)


@hook("sampling.sampling_batch_info.SamplingBatchInfo.adjusted_from_schedule_batch", "AFTER")
def _rows_enter(result: Any, self: Any, batch: Any, vocab_size: int) -> None:
    from sglang.srt.utils.common import is_pin_memory_available

    rows = [request_row(req) for req in batch.reqs]
    table = None
    if not all(row.plain for row in rows):
        table = RowTable.build(rows, self.device, is_pin_memory_available(self.device))
    setattr(self, TABLE_ATTRIBUTE, table)


@hook("sampling.sampling_batch_info.SamplingBatchInfo.adjusted_filter_batch", "AFTER")
def _rows_leave(result: Any, self: Any, keep_indices: list[int], keep_device: Tensor) -> None:
    table = table_of(self)
    if table is not None:
        kept = table.keep(keep_indices, keep_device)
        setattr(self, TABLE_ATTRIBUTE, kept if kept.samplers else None)


@hook("sampling.sampling_batch_info.SamplingBatchInfo.adjusted_merge_batch", "AFTER")
def _rows_join(result: Any, self: Any, other: Any) -> None:
    left, right = table_of(self), table_of(other)
    like = left or right
    if like is None:
        return
    # SGLang has merged its own tensors already
    left_count = len(self) - len(other)
    left = left or RowTable.plain(left_count, like)
    right = right or RowTable.plain(len(other), like)
    setattr(self, TABLE_ATTRIBUTE, left.join(right))


@hook("sampling.sampling_batch_info.SamplingBatchInfo.copy_for_forward", "AFTER")
def _rows_copied(result: Any, self: Any) -> None:
    setattr(result, TABLE_ATTRIBUTE, table_of(self))


@hook("model_executor.forward_batch_info.ForwardBatch.init_new", "AFTER")
def _step_begins(result: Any, cls: type, batch: Any, model_runner: Any, **_: Any) -> None:
    info = result.sampling_info
    soft_inputs = getattr(model_runner.sampler, "soft_inputs", None)
    if soft_inputs is not None and batch.forward_mode.is_extend():
        soft_inputs.restore(batch, result)
    if info is None or table_of(info) is None:
        return
    initial = None
    if batch.forward_mode.is_extend():
        initial = _initial_states(batch, model_runner, info.device)
    setattr(info, STEP_ATTRIBUTE, StepInputs(result.req_pool_indices, initial))


def _initial_states(batch: Any, model_runner: Any, device: Any) -> Tensor | None:
    automaton = model_runner.sampler.automaton
    if automaton is None:
        return None
    decoding = {id(req) for req in batch.decoding_reqs or ()}
    states = [
        _KEEP if id(req) in decoding else _state_after_prefill(req, automaton) for req in batch.reqs
    ]
    from sglang.srt.utils.common import is_pin_memory_available

    pin = is_pin_memory_available(device)
    return torch.tensor(states, dtype=torch.int64, pin_memory=pin).to(device, non_blocking=True)


def _state_after_prefill(req: Any, automaton: ThinkAutomaton) -> int:
    """State after the prompt and, for a request that was retracted, its tokens so far."""
    row = request_row(req)
    if row.plain:
        return _KEEP
    state = getattr(req, _PROMPT_STATE_ATTRIBUTE, None)
    if state is None:
        if isinstance(row.params, LedParams) and row.params.preset == "release":
            state = automaton.initial[Phase.THINK]
        else:
            state = automaton.scan_prompt(req.origin_input_ids)
        setattr(req, _PROMPT_STATE_ATTRIBUTE, state)
    return automaton.advance(state, req.output_ids) if req.output_ids else state
