"""Statistics: from the step to the scheduler, to `meta_info`, `/server_info` and Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import singledispatch
from typing import Any

from led_sglang.patches.batch_state import HISTORY_ATTRIBUTE, REQUEST_ATTRIBUTE
from led_sglang.patches.embedding import is_installed
from led_sglang.patches.hooks import hook
from led_sglang.patches.metrics import publish
from led_sglang.patches.server_args import settings_or_none
from torch import Tensor

from led_sglang.params import LedParams
from led_sglang.soft_telemetry import SoftHistory, SoftRecord
from led_sglang.telemetry import (
    LatestReport,
    Record,
    RequestStatistics,
    ServerTotals,
    StepRecord,
    count_token,
    is_led,
    thinks,
    token_trace,
)

SUMMARY_KEY = "led"
TRACE_KEY = "led_trace"
BEHAVIOUR_KEY = "led_behaviour_logprobs"
SOFT_KEY = "soft_thinking"
SOFT_TRACE_KEY = "soft_thinking_trace"
_STATISTICS_ATTRIBUTE = "led_statistics"  # Req: RequestStatistics

_totals = ServerTotals()


class DeviceStatistics:
    """A step's records on their way to the host (SGLang's `DeviceAuxiliaryOutput`)."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records

    def copy_to_host(self, copy_tensor: Callable[[Tensor], Tensor]) -> HostStatistics:
        return HostStatistics([record.copied(copy_tensor) for record in self._records])


class HostStatistics:
    """The records on the host; counted when their tokens are committed (`HostAuxiliaryOutput`)."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records

    def consume(self, batch: Any, commits: Sequence[Any]) -> None:
        for record in self._records:
            commit(record, batch, commits)


@singledispatch
def commit(record: Any, batch: Any, commits: Sequence[Any]) -> None:
    """Count the committed tokens of a record, which is on the host.

    Args:
        batch: SGLang's batch of requests, rows as in the record.
        commits: per row, None for one without a committed token: an aborted or retracted request,
            a middle chunk.
    """
    raise TypeError(f"nothing consumes a {type(record).__name__}")


@commit.register
def _commit_led(record: StepRecord, batch: Any, commits: Sequence[Any]) -> None:
    phases, summary = record.phases.tolist(), record.summary.tolist()
    _totals.steps += 1
    _totals.projected_rows += record.projected_rows or 0
    for row, (req, committed) in enumerate(zip(batch.reqs, commits, strict=True)):
        if committed is None or not is_led(summary[row]):
            continue
        count_token(summary[row], _statistics_of(req), _totals)
        params: LedParams = getattr(req, REQUEST_ATTRIBUTE).params
        if params.projects:
            token = committed.token_ids[0]
            _append_detail(record, req, row, token, phases[row], summary[row], params)
    publish(_totals)


@commit.register
def _commit_soft(record: SoftRecord, batch: Any, commits: Sequence[Any]) -> None:
    arrays = record.arrays()
    for row, place in enumerate(arrays["index"].tolist()):
        req, committed = batch.reqs[place], commits[place]
        if committed is None:
            continue
        history: SoftHistory = getattr(req, HISTORY_ATTRIBUTE)
        entry = history.add(arrays, row, committed.output_index)
        if req.customized_info is None:
            req.customized_info = {}
        req.customized_info.setdefault(SOFT_KEY, LatestReport(history))
        if getattr(req, REQUEST_ATTRIBUTE).params.trace:
            req.customized_info.setdefault(SOFT_TRACE_KEY, []).append(entry)


def _append_detail(
    record: StepRecord,
    req: Any,
    row: int,
    token: int,
    phase: int,
    summary: list[float],
    params: LedParams,
) -> None:
    info = req.customized_info
    logprobs = record.behaviour_logprob
    logprob = float(logprobs[row]) if logprobs is not None and thinks(summary) else None
    if params.behaviour_logprobs:
        info.setdefault(BEHAVIOUR_KEY, []).append(logprob)
    if params.trace and record.trace is not None:
        detail = {name: value[row].tolist() for name, value in record.trace.items()}
        entry = token_trace(token, phase, summary, detail, params)
        if logprob is not None:
            entry["behaviour_logprob"] = logprob
        info.setdefault(TRACE_KEY, []).append(entry)


def _statistics_of(req: Any) -> RequestStatistics:
    statistics: RequestStatistics | None = getattr(req, _STATISTICS_ATTRIBUTE, None)
    if statistics is None:
        statistics = RequestStatistics()
        setattr(req, _STATISTICS_ATTRIBUTE, statistics)
        if req.customized_info is None:
            req.customized_info = {}
        req.customized_info[SUMMARY_KEY] = LatestReport(statistics)
    return statistics


@hook("managers.tokenizer_manager.TokenizerManager.update_request_meta_info", "AFTER")
def _show_in_meta_info(
    result: Any,
    self: Any,
    meta_info: dict[str, Any],
    state: Any,
    customized_info: dict[str, Any],
    index: int,
    finish_reason: Any,
) -> None:
    """Per-token lists stay lists; the summary is the latest report alone."""
    for key in (SUMMARY_KEY, TRACE_KEY, BEHAVIOUR_KEY, SOFT_KEY, SOFT_TRACE_KEY):
        values = meta_info.get(key)
        if values is None:
            continue
        # Requests LED does not sample get None per token from SGLang when a neighbour has values.
        reports = [value for value in values if value is not None]
        is_summary = key in (SUMMARY_KEY, SOFT_KEY)
        if is_summary or not reports:
            del meta_info[key]
            state.customized_info_accumulated.pop(key, None)
            state.customized_info_reported_keys.discard(key)
        if is_summary and reports:
            meta_info[key] = reports[-1]


@hook(
    "managers.scheduler_components.internal_state.SchedulerInternalStateController."
    "get_internal_state",
    "AFTER",
)
def _show_in_server_info(result: Any, self: Any, recv_req: Any) -> None:
    settings = settings_or_none()
    if settings is not None:
        step = self.scheduler.tp_worker.model_runner.sampler.step
        result.internal_state["led"] = {
            "settings": {
                "sampler": settings.sampler,
                "enabled": list(settings.enabled),
                "depth": settings.depth,
                "candidates": settings.candidates,
                "layers": settings.layers,
                "think_only": settings.think_only,
                "captured_layers": list(settings.latent_layers),
                "preset": settings.preset,
                "think_start": settings.think_start,
                "think_end": settings.think_end,
                "tool_start": settings.tool_start,
                "boundary_ids": list(settings.boundary_ids),
            },
            "kernels": step.name if step.reason is None else f"{step.name}: {step.reason}",
            "totals": _totals.report(step.projected_rows()),
            "reads_soft_inputs": is_installed(),
        }
