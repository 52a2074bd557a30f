"""What a step of LED leaves behind: counts of think tokens, and all numbers where asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from led_sglang.common.phases import PHASE_NAMES
from led_sglang.kernels import Decided
from led_sglang.methods.led.params import BEHAVIOUR_KEY, SUMMARY_KEY, TRACE_KEY, LedParams
from led_sglang.methods.reporting import Commits, Counters

# Fields of `LedResult` that a trace shows.
_TRACED = (
    *("candidate_ids", "layer_probs", "behaviour_probs", "entropy", "explore_probability"),
    "gate_draw",
)


@dataclass
class LedStatistics:
    """Counts of one request over its committed tokens.

    Attributes:
        first_explored: place in the output of the first token that explored; None where none did.
    """

    think_tokens: int = 0
    explored_tokens: int = 0
    depth_histogram: dict[int, int] = field(default_factory=dict)
    p1_sum: float = 0.0
    first_explored: int | None = None

    def add(self, explored: bool, depth: int, p1: float, position: int) -> None:
        """Count one token of the think phase; `depth` counts only where it explored."""
        self.think_tokens += 1
        self.p1_sum += p1
        if explored:
            if self.first_explored is None:
                self.first_explored = position
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
            "first_explored": self.first_explored,
        }


@dataclass(frozen=True)
class LedRecord:
    """The record of a step of B rows.

    Attributes:
        summary: see `Decided.summary`.
        trace: None, or the detailed tensors by name, [B, ...] each.
        projected_rows: latent rows sent through the LM head; None where only the GPU knows.
    """

    every_rank: ClassVar[bool] = False

    summary: Tensor
    trace: dict[str, Tensor] | None
    projected_rows: int | None

    @classmethod
    def of(cls, decided: Decided, *, trace: bool) -> LedRecord:
        """What the host wants of a step, without waiting for it; `trace`: the details too."""
        result, detail = decided.result, None
        if trace:
            # Copies: the next step may overwrite its results before the host has read these.
            detail = {name: getattr(result, name).clone() for name in _TRACED}
        return cls(decided.summary, detail, result.projected_rows)

    def copied(self, copy: Callable[[Tensor], Tensor]) -> LedRecord:
        """See `Record.copied`."""
        trace = self.trace and {name: copy(value) for name, value in self.trace.items()}
        return LedRecord(copy(self.summary), trace, self.projected_rows)

    def commit(self, commits: Commits, counters: Counters) -> None:
        """Count the think tokens of LED requests, and note what they asked for."""
        think_tokens, p1_sum, depths = 0, 0.0, Counter[int]()
        for row, (is_led, thinks, explored, depth, p1, phase, logq) in enumerate(
            self.summary.tolist()
        ):
            notes = commits.notes(row) if is_led else None
            if notes is None:
                continue
            notes.summarise(SUMMARY_KEY)
            if thinks:
                notes.statistics.add(bool(explored), int(depth), p1, commits.position(row))
                think_tokens += 1
                p1_sum += p1
                if explored:
                    depths[int(depth)] += 1
            params: LedParams = notes.params
            if not params.projects:
                continue
            logprob = logq if thinks else None
            if params.behaviour_logprobs:
                notes.append(BEHAVIOUR_KEY, logprob)
            if params.trace:
                entry = {"token_id": commits.token_id(row), "phase": PHASE_NAMES[int(phase)]}
                if thinks:
                    entry |= {"explored": bool(explored), "depth": int(depth), "p1": p1}
                    entry |= self._detail(row, params) | {"behaviour_logprob": logprob}
                notes.append(TRACE_KEY, entry)
        counters.add("steps")
        counters.add("projected_rows", self.projected_rows or 0)
        counters.add("think_tokens", think_tokens)
        counters.add("p1", p1_sum)
        counters.add("explored_tokens", depths.total())
        for depth, count in depths.items():
            counters.add("tokens_per_depth", count, depth)

    def _detail(self, row: int, params: LedParams) -> dict[str, Any]:
        """Of a row as its trace entry shows it: k and d of the batch may exceed the request's."""
        assert self.trace is not None
        detail = {name: value[row].tolist() for name, value in self.trace.items()}
        layers = [layer[: params.candidates] for layer in detail["layer_probs"][: params.depth]]
        final = layers[0]
        # Far below p1 a candidate is 0 in float32; a layer that is less sure may draw it.
        live = [i for i, column in enumerate(zip(*layers, strict=True)) if any(column)]
        return {
            "entropy": detail["entropy"],
            "explore_probability": detail["explore_probability"],
            "candidate_ids": [detail["candidate_ids"][i] for i in live],
            "candidate_probs": [final[i] for i in live],
            "layer_probs": [[layer[i] for i in live] for layer in layers],
            "behaviour_probs": [detail["behaviour_probs"][i] for i in live],
            "gate_draw": detail["gate_draw"],
        }
