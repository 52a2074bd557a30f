"""Statistics: from the step to the scheduler, to `meta_info`, `/server_info` and Prometheus."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from led_sglang.common.provenance import command_line, processor
from led_sglang.kernels import Step
from led_sglang.methods.registry import METHODS
from led_sglang.methods.reporting import Record, RequestNotes
from led_sglang.patches import metrics
from led_sglang.patches.batch_state import notes_of
from led_sglang.patches.hooks import hook
from led_sglang.patches.metrics import ServerCounters
from led_sglang.patches.published import settings_or_none
from led_sglang.patches.self_check import Report


class StepStatistics:
    """A step's records: on the device, then on the host, where they are counted when their tokens
    are committed (SGLang's `DeviceAuxiliaryOutput` and `HostAuxiliaryOutput`)."""

    def __init__(self, records: Sequence[Record], step: Step, per_request: int = 1) -> None:
        """Rows of the records follow the batch's requests, `per_request` of each: of as many tokens
        as a verification may have accepted."""
        self._records = records
        self._step = step
        self._per_request = per_request
        self._projected = step.projected if metrics.are_shown() else None

    def copy_to_host(self, copy_tensor: Callable[[Tensor], Tensor]) -> StepStatistics:
        copied = StepStatistics(
            [record.copied(copy_tensor) for record in self._records], self._step, self._per_request
        )
        if self._projected is not None:
            copied._projected = copy_tensor(self._projected)
        return copied

    def consume(self, batch: Any, commits: Sequence[Any]) -> None:
        committed = _BatchCommits(batch.reqs, commits, self._per_request)
        _counters.falls_back(self._step.reason is not None)
        if self._projected is not None:
            _counters.projected_on_device(int(self._projected))
        for record in self._records:
            record.commit(committed, _counters)


class _BatchCommits:
    """The committed tokens of SGLang's batch, see `Commits`."""

    def __init__(self, requests: Sequence[Any], commits: Sequence[Any], per_request: int) -> None:
        self._requests, self._commits, self._per_request = requests, commits, per_request

    def notes(self, row: int) -> RequestNotes | None:
        request, place = divmod(row, self._per_request)
        commit = self._commits[request]
        committed = commit is not None and place < len(commit.token_ids)
        return notes_of(self._requests[request]) if committed else None

    def token_id(self, row: int) -> int:
        request, place = divmod(row, self._per_request)
        token: int = self._commits[request].token_ids[place]
        return token

    def position(self, row: int) -> int:
        request, place = divmod(row, self._per_request)
        first: int = self._commits[request].output_index
        return first + place


_counters = ServerCounters()


def show_from_the_start(step: Step, max_depth: int, checked: Report) -> None:
    """Have `/metrics` show everything before the first request."""
    metrics.start(max_depth, None if checked.mode == "off" else checked.finding is None)
    _counters.falls_back(step.reason is not None)


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
    """Per-token lists stay lists; a summary is the latest report alone."""
    for method in METHODS:
        for key in (method.summary, *method.lists):
            values = meta_info.get(key)
            if values is None:
                continue
            # Requests of other methods get None per token from SGLang when a neighbour has values.
            reports = [value for value in values if value is not None]
            if key == method.summary or not reports:
                del meta_info[key]
                state.customized_info_accumulated.pop(key, None)
                state.customized_info_reported_keys.discard(key)
            if key == method.summary and reports:
                meta_info[key] = reports[-1]


def _machine(scheduler: Any) -> dict[str, Any]:
    """What a report says of the server: how it was started, and on what.

    Multiprocessing gives a scheduler the arguments of the process that was launched.
    """
    device = torch.device(scheduler.tp_worker.model_runner.device)
    on_gpu = device.type == "cuda"
    return {
        "command": command_line([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "hardware": torch.cuda.get_device_name(device) if on_gpu else processor(),
    }


@hook(
    "managers.scheduler_components.internal_state.SchedulerInternalStateController."
    "get_internal_state",
    "AFTER",
)
def _show_in_server_info(result: Any, self: Any, recv_req: Any) -> None:
    settings = settings_or_none()
    if settings is not None:
        sampler = self.scheduler.tp_worker.model_runner.sampler
        step = sampler.methods.step
        if step.projected is not None:
            _counters.projected_on_device(int(step.projected))
        result.internal_state["led"] = {
            "settings": {
                "sampler": settings.sampler,
                "enabled": list(settings.enabled),
                "depth": settings.depth,
                "candidates": settings.candidates,
                "layers": settings.layers,
                "logprobs": settings.logprobs,
                "think_only": settings.think_only,
                "captured_layers": list(settings.latent_layers),
                "preset": settings.preset,
                "think_start": settings.think_start,
                "think_end": settings.think_end,
                "tool_start": settings.tool_start,
                "boundary_ids": list(settings.boundary_ids),
            },
            "machine": _machine(self.scheduler),
            "kernels": step.name if step.reason is None else f"{step.name}: {step.reason}",
            "self_check": sampler.methods.checked.shown(),
            "truncation_check": sampler.proof and sampler.proof.shown(),
            "totals": _counters.report(),
            "reads_soft_inputs": sampler.methods.soft_inputs is not None,
        }
