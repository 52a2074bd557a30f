"""Statistics: from the step to the scheduler, to `meta_info`, `/server_info` and Prometheus."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sglang.srt.runtime_context import get_parallel
from torch import Tensor

from led_sglang.common.provenance import command_line, processor
from led_sglang.kernels import Step
from led_sglang.methods.registry import METHODS
from led_sglang.methods.reporting import Record, RequestNotes
from led_sglang.patches import metrics
from led_sglang.patches.batch_state import notes_of
from led_sglang.patches.hooks import hook
from led_sglang.patches.metrics import ServerCounters
from led_sglang.patches.proven_capture import Report as CaptureReport
from led_sglang.patches.published import pair_role, settings_or_none
from led_sglang.patches.self_check import Report
from led_sglang.patches.stages import samples_here

# Name of the tensor beside the numbered ones of a record.
_REST = "rest"


@dataclass
class Serving:
    """Who computes LED's steps, as every stage knows it.

    Attributes:
        name, reason: see `Step`.
        checked: what the self-check found at launch.
        proof: what the check of the captured layers found; None where nothing is captured.
    """

    name: str
    reason: str | None
    checked: Report
    reads_soft_inputs: bool
    proof: CaptureReport | None = None


class StepStatistics:
    """A step's records: on the device, then on the host, where they are counted when their tokens
    are committed (SGLang's `DeviceAuxiliaryOutput` and `HostAuxiliaryOutput`).

    Of several pipeline stages the last one makes them and the first one counts them.

    Args:
        records: of the step.
        reason: see `Step`.
        projected: see `Step`; None where nobody asks.
        per_request: rows of the records follow the batch's requests, so many of each: of as many
            tokens as a verification may have accepted.
    """

    def __init__(
        self,
        records: Sequence[Record],
        reason: str | None,
        projected: Tensor | None,
        per_request: int = 1,
    ) -> None:
        self._records, self._reason, self._projected = records, reason, projected
        self._per_request = per_request

    @classmethod
    def of(
        cls, records: Sequence[Record], step: Step, per_request: int = 1
    ) -> StepStatistics | None:
        """What this rank keeps of a step; None where that is nothing.

        All ranks of a last stage send theirs: SGLang has each send its part of every tensor.
        """
        projected = step.projected
        if get_parallel().pp_size > 1:
            # The next step may run before this one's statistics leave.
            projected = None if projected is None else projected.clone()
            return cls(records, step.reason, projected, per_request)
        needed = _needed_here(records)
        if not needed:
            return None
        shown = projected if metrics.are_shown() else None
        return cls(needed, step.reason, shown, per_request)

    def copy_to_host(self, copy_tensor: Callable[[Tensor], Tensor]) -> StepStatistics:
        return StepStatistics(
            [record.copied(copy_tensor) for record in self._records],
            self._reason,
            None if self._projected is None else copy_tensor(self._projected),
            self._per_request,
        )

    def to_pp_tensors(self) -> dict[str, Tensor]:
        """As SGLang sends it to the first stage: numbered tensors, and all else pickled into one.

        That one lies on the host. Its length is no multiple of the number of ranks: SGLang would
        send it in parts then, and gather them on the device.
        """
        tensors: dict[str, Tensor] = {}

        def number(tensor: Tensor) -> Any:
            name = str(len(tensors))
            tensors[name] = tensor.contiguous()
            return name

        rest = bytearray(pickle.dumps(self.copy_to_host(number)))
        rest += bytes((1 - len(rest)) % get_parallel().attn_tp_size)
        return {_REST: torch.frombuffer(rest, dtype=torch.uint8), **tensors}

    @classmethod
    def from_pp_tensors(cls, tensors: Mapping[str, Tensor]) -> StepStatistics:
        """What `to_pp_tensors` was called on, and of its records those that this rank needs."""
        sent: StepStatistics = pickle.loads(tensors[_REST].numpy().tobytes())
        sent._records = _needed_here(sent._records)
        named: Any = tensors.__getitem__
        return sent.copy_to_host(named)

    def consume(self, batch: Any, commits: Sequence[Any]) -> None:
        committed = _BatchCommits(batch.reqs, commits, self._per_request)
        _counters.falls_back(self._reason is not None)
        if self._projected is not None:
            _counters.projected_on_device(int(self._projected))
        for record in self._records:
            record.commit(committed, _counters)


def _needed_here(records: Sequence[Record]) -> list[Record]:
    """Only the first rank talks to the detokenizer, but every one to a decode server."""
    tells = get_parallel().attn_tp_rank == 0 or pair_role() == "prefill"
    return [record for record in records if tells or record.every_rank]


class FromTheLastStage:
    """Takes in what the last pipeline stage sends (SGLang's `PipelineParallelSamplingObserver`).

    Args:
        serving: kept up to date.
    """

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    def from_pp_tensors(self, tensors: Mapping[str, Tensor]) -> StepStatistics:
        """Called on the first stage."""
        statistics = StepStatistics.from_pp_tensors(tensors)
        self._serving.reason = statistics._reason
        return statistics


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


def show_from_the_start(serving: Serving, max_depth: int) -> None:
    """Have `/metrics` show everything before the first request."""
    checked = serving.checked
    metrics.start(max_depth, None if checked.mode == "off" else checked.finding is None)
    _counters.falls_back(serving.reason is not None)


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
        if samples_here() and sampler.methods.step.projected is not None:
            _counters.projected_on_device(int(sampler.methods.step.projected))
        serving: Serving = sampler.methods.serving
        name, reason = serving.name, serving.reason
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
                "stage_start": settings.stage_start,
                "preset": settings.preset,
                "think_start": settings.think_start,
                "think_end": settings.think_end,
                "tool_start": settings.tool_start,
                "boundary_ids": list(settings.boundary_ids),
            },
            "machine": _machine(self.scheduler),
            "kernels": name if reason is None else f"{name}: {reason}",
            "self_check": serving.checked.shown(),
            "truncation_check": serving.proof and serving.proof.shown(),
            "totals": _counters.report(),
            "reads_soft_inputs": serving.reads_soft_inputs,
        }
