"""Per-request statistics and per-token traces, gathered without a host sync in a step.

The step leaves small tensors on the device; SGLang copies them to the host together with the
sampled ids and hands them back, one step later, when the tokens are committed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from led_sglang.common.phases import PHASE_NAMES
from led_sglang.kernels import LedResult
from led_sglang.params import LedParams

# Columns of the per-token summary.
_IS_LED, _THINKS, _EXPLORED, _DEPTH, _P1 = range(5)


@dataclass
class RequestStatistics:
    """Counts of one request over its committed tokens."""

    think_tokens: int = 0
    explored_tokens: int = 0
    depth_histogram: dict[int, int] = field(default_factory=dict)
    p1_sum: float = 0.0

    def add(self, explored: bool, depth: int, p1: float) -> None:
        """Count one token of the think phase; `depth` counts only where it explored."""
        self.think_tokens += 1
        self.p1_sum += p1
        if explored:
            self.explored_tokens += 1
            self.depth_histogram[depth] = self.depth_histogram.get(depth, 0) + 1

    def report(self) -> dict[str, Any]:
        """As it appears in `meta_info["led"]`."""
        return {
            "think_tokens": self.think_tokens,
            "explored_tokens": self.explored_tokens,
            # string keys: JSON has no others
            "depth_histogram": {str(d): n for d, n in sorted(self.depth_histogram.items())},
            "mean_p1": self.p1_sum / self.think_tokens if self.think_tokens else None,
        }


class Reporting(Protocol):
    """A request's statistics."""

    def report(self) -> dict[str, Any]:
        """As it appears in `meta_info`."""


class LatestReport:
    """A request's statistics in the shape of SGLang's per-token metadata.

    SGLang slices a request's metadata by token range before it sends a chunk. A summary has no
    token range: any slice of this object is the one report of that moment.
    """

    def __init__(self, statistics: Reporting) -> None:
        self._statistics = statistics

    def __getitem__(self, _: slice) -> list[dict[str, Any]]:
        return [self._statistics.report()]


@dataclass
class ServerTotals:
    """Sums over all requests since the server started."""

    think_tokens: int = 0
    explored_tokens: int = 0
    tokens_per_depth: dict[int, int] = field(default_factory=dict)
    projected_rows: int = 0
    steps: int = 0

    def report(self, on_device: int = 0) -> dict[str, Any]:
        """As it appears in `/server_info`; `on_device`: rows that only the GPU has counted."""
        return {
            "think_tokens": self.think_tokens,
            "explored_tokens": self.explored_tokens,
            "tokens_per_depth": {str(d): n for d, n in sorted(self.tokens_per_depth.items())},
            "projected_rows": self.projected_rows + on_device,
            "steps": self.steps,
        }


class Record(Protocol):
    """What one step of a method leaves behind, on the device or, once copied, on the host.

    Attributes:
        every_rank: every tensor-parallel rank needs it; else only the one that answers.
    """

    every_rank: ClassVar[bool]

    def copied(self, copy: Callable[[Tensor], Tensor]) -> Record:
        """The same with every tensor passed through `copy` (asynchronous, to the host)."""


@dataclass(frozen=True)
class StepRecord:
    """The record of a step of LED.

    summary: [B, 5] f32: is LED's, thinks, explored, depth, p1.
    phases: [B] int64, `Phase` of the state in which the token was sampled.
    behaviour_logprob: None where no row asked, else [B] f32, log q(token); -inf where the step did
        not need q.
    trace: None, or the detailed tensors by name.
    projected_rows: latent rows sent through the LM head; None where only the GPU knows.
    """

    every_rank: ClassVar[bool] = False

    summary: Tensor
    phases: Tensor
    behaviour_logprob: Tensor | None
    trace: dict[str, Tensor] | None
    projected_rows: int | None

    @classmethod
    def of(
        cls,
        result: LedResult,
        led_rows: Tensor,
        think_rows: Tensor,
        phases: Tensor,
        *,
        behaviour: bool,
        trace: bool,
    ) -> StepRecord:
        """Gather a step's tensors without synchronising.

        Args:
            result: the step's outcome.
            led_rows, think_rows: [B] bool.
            phases: [B] int64, `Phase` of the state in which the token was sampled.
            behaviour: keep log q(token).
            trace: keep the detailed tensors as well.
        """
        # fp32, as p1 is: torch promotes bools and integers to it.
        summary = torch.stack(
            [led_rows, think_rows, result.explored, result.depth, result.p1], dim=1
        )
        # Copies: the next step may overwrite its results before the host has read these.
        detail = None
        if trace:
            detail = {
                "candidate_ids": result.candidate_ids.clone(),
                "layer_probs": result.layer_probs.clone(),
                "behaviour_probs": result.behaviour_probs.clone(),
                "entropy": result.entropy.clone(),
                "explore_probability": result.explore_probability.clone(),
            }
            if result.gate_draw is not None:
                detail["gate_draw"] = result.gate_draw.clone()
        logprob = result.behaviour_logprob.clone() if behaviour else None
        return cls(summary, phases, logprob, detail, result.projected_rows)

    def copied(self, copy: Callable[[Tensor], Tensor]) -> StepRecord:
        """The same record with every tensor passed through `copy` (asynchronous, to the host)."""
        trace = self.trace and {name: copy(value) for name, value in self.trace.items()}
        return StepRecord(
            copy(self.summary),
            copy(self.phases),
            None if self.behaviour_logprob is None else copy(self.behaviour_logprob),
            trace,
            self.projected_rows,
        )


def token_trace(
    token: int, phase: int, summary: Sequence[float], detail: dict[str, Any], params: LedParams
) -> dict[str, Any]:
    """One token's trace entry, as it appears in `meta_info["led_trace"]`.

    Args:
        token: its id.
        phase: `Phase` value.
        summary: the token's row of `StepRecord.summary`.
        detail: the token's row of each trace tensor.
        params: the request's own; k and d of the batch may be larger.
    """
    entry: dict[str, Any] = {"token_id": token, "phase": PHASE_NAMES[phase]}
    if not thinks(summary):
        return entry
    final = detail["layer_probs"][0][: params.candidates]
    live = [i for i, p in enumerate(final) if p > 0.0]
    return entry | {
        "explored": bool(summary[_EXPLORED]),
        "depth": int(summary[_DEPTH]),
        "p1": summary[_P1],
        "entropy": detail["entropy"],
        "candidate_ids": [detail["candidate_ids"][i] for i in live],
        "candidate_probs": [final[i] for i in live],
        "layer_probs": [[row[i] for i in live] for row in detail["layer_probs"][: params.depth]],
        "behaviour_probs": [detail["behaviour_probs"][i] for i in live],
        "explore_probability": detail["explore_probability"],
        "gate_draw": detail.get("gate_draw"),
    }


def thinks(summary: Sequence[float]) -> bool:
    """Whether the token of a row of `StepRecord.summary` was sampled in the think phase."""
    return bool(summary[_THINKS])


def is_led(summary: Sequence[float]) -> bool:
    """Whether a row of `StepRecord.summary` belongs to a request LED samples."""
    return bool(summary[_IS_LED])


def count_token(
    summary: Sequence[float], statistics: RequestStatistics, totals: ServerTotals
) -> None:
    """Count one committed token of a LED request; tokens outside the think phase are not LED's."""
    if not thinks(summary):
        return
    explored, depth = bool(summary[_EXPLORED]), int(summary[_DEPTH])
    statistics.add(explored, depth, summary[_P1])
    totals.think_tokens += 1
    if explored:
        totals.explored_tokens += 1
        totals.tokens_per_depth[depth] = totals.tokens_per_depth.get(depth, 0) + 1
