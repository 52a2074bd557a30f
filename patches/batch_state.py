"""Per-row LED state of a batch: parameters that move with the rows, and the think phase by slot."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any
from weakref import WeakSet

import torch
from sglang.srt.sampling.sampling_params import TOP_K_ALL
from sglang.srt.utils.common import is_pin_memory_available
from torch import Tensor

from led_sglang.methods.registry import METHODS
from led_sglang.methods.reporting import RequestNotes
from led_sglang.methods.rows import REGULAR_ROW, Layout, Row, RowTable, upload
from led_sglang.patches.hooks import hook
from led_sglang.patches.stages import samples_here
from led_sglang.phase import KEEP, Phase, StepInputs, ThinkAutomaton
from led_sglang.settings import ServerSettings

# Attributes this file adds to SGLang's objects.
TABLE_ATTRIBUTE = "led_rows"  # SamplingBatchInfo: RowTable or None
STEP_ATTRIBUTE = "led_step"  # SamplingBatchInfo: StepInputs
SAMPLER_ATTRIBUTE = "led_sampler"  # SamplingBatchInfo: who makes its tokens, for a verification
_NOTES_ATTRIBUTE = "led_notes"  # Req: RequestNotes, set when the request is created
_PROMPT_STATE_ATTRIBUTE = "led_prompt_state"  # Req: phase state after the prompt

# On a decode server: requests whose cache has come, from the prefill server or, after a retraction,
# from the host, and whose first step is still to begin. Their slot holds another request's phase
# until then, and that one's last step may still be running.
_handed_over: WeakSet[Any] = WeakSet()


@cache
def _layout() -> Layout:
    """How the rows of this process's batches carry the parameters of all methods."""
    return Layout.of(METHODS)


def keep_notes(req: Any, notes: RequestNotes) -> None:
    """Attach what LED knows of a request; its `info` becomes part of the answer's metadata."""
    setattr(req, _NOTES_ATTRIBUTE, notes)
    req.customized_info = notes.info


def notes_of(req: Any) -> RequestNotes | None:
    """What LED knows of a request; None for `regular` ones."""
    return getattr(req, _NOTES_ATTRIBUTE, None)


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


def request_row(req: Any) -> Row:
    """The host record of a request, parsed when it was created."""
    notes = notes_of(req)
    if notes is None:
        return REGULAR_ROW
    params = req.sampling_params
    return Row(
        notes.sampler,
        notes.params,
        # SGLang turns temperature 0 into top_k 1 at temperature 1
        greedy=params.top_k <= 1,
        seed=params.sampling_seed,
        top_k=params.top_k if params.top_k < TOP_K_ALL else -1,
        top_p=params.top_p,
        min_p=params.min_p,
    )


def table_of(sampling_info: Any) -> RowTable | None:
    """The rows of a batch, or None where the engine alone samples all of them, or another stage."""
    return getattr(sampling_info, TABLE_ATTRIBUTE, None)


@hook("sampling.sampling_batch_info.SamplingBatchInfo.adjusted_from_schedule_batch", "AFTER")
def _rows_enter(result: Any, self: Any, batch: Any, vocab_size: int) -> None:
    rows = [request_row(req) for req in batch.reqs] if samples_here() else []
    table = None
    if not all(row.regular for row in rows):
        pin = is_pin_memory_available(self.device)
        table = RowTable.build(rows, _layout(), self.device, pin)
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
    left = left or like.regular(left_count)
    right = right or like.regular(len(other))
    setattr(self, TABLE_ATTRIBUTE, left.join(right))


@hook("sampling.sampling_batch_info.SamplingBatchInfo.copy_for_forward", "AFTER")
def _rows_copied(result: Any, self: Any) -> None:
    setattr(result, TABLE_ATTRIBUTE, table_of(self))


@hook("model_executor.forward_batch_info.ForwardBatch.init_new", "AFTER")
def _step_begins(result: Any, cls: type, batch: Any, model_runner: Any, **_: Any) -> None:
    info, methods = result.sampling_info, getattr(model_runner.sampler, "methods", None)
    if methods is None or model_runner.is_draft_worker:
        return
    prefills = batch.forward_mode.is_extend() and not batch.forward_mode.is_target_verify()
    if methods.soft_inputs is not None and prefills:
        methods.soft_inputs.restore(batch, result)
    if info is None or table_of(info) is None:
        return
    initial, automaton = None, methods.automaton
    if automaton is not None and prefills:
        decoding = {id(req) for req in batch.decoding_reqs or ()}
        entering = [id(req) not in decoding for req in batch.reqs]
        initial = _initial_states(batch, entering, automaton, info.device)
    elif automaton is not None and _handed_over:
        entering = [req in _handed_over for req in batch.reqs]
        _handed_over.difference_update(batch.reqs)
        initial = _initial_states(batch, entering, automaton, info.device)
    setattr(info, STEP_ATTRIBUTE, StepInputs(result.req_pool_indices, initial))
    setattr(info, SAMPLER_ATTRIBUTE, model_runner.sampler)


@hook(
    "managers.scheduler_components.batch_result_processor.SchedulerBatchResultProcessor."
    "process_batch_result_prebuilt",
    "AFTER",
)
def _requests_come(result: Any, self: Any, batch: Any) -> None:
    """No forward pass brings them in."""
    _handed_over.update(req for req in batch.reqs if notes_of(req) and not req.finished())


def _initial_states(
    batch: Any, entering: Sequence[bool], automaton: ThinkAutomaton, device: Any
) -> Tensor:
    """[B] int64: the state of each request that enters its slot with this step, else KEEP."""
    states = [
        _state_after_prefill(req, automaton) if enters else KEEP
        for req, enters in zip(batch.reqs, entering, strict=True)
    ]
    pin = is_pin_memory_available(device)
    return upload(torch.tensor(states, dtype=torch.int64), device, pin)


def _state_after_prefill(req: Any, automaton: ThinkAutomaton) -> int:
    """State after the prompt and, for a request that was retracted, its tokens so far."""
    row = request_row(req)
    if row.regular:
        return KEEP
    state = getattr(req, _PROMPT_STATE_ATTRIBUTE, None)
    if state is None:
        if getattr(row.params, "thinks_at_once", False):
            state = automaton.initial[Phase.THINK]
        else:
            state = automaton.scan_prompt(req.origin_input_ids)
        setattr(req, _PROMPT_STATE_ATTRIBUTE, state)
    return automaton.advance(state, req.output_ids) if req.output_ids else state
