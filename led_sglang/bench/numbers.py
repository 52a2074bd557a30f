"""From the times of tokens to rates, and from pairs of runs to ratios with their spread."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from led_sglang.bench import BenchError


@dataclass(frozen=True)
class Run:
    """One run of one arm.

    Rates are those of the window in which all requests decode: from the last first token to the
    first last token. Before and after it the batch is smaller, and prefill is not what LED costs.
    """

    arm: str
    tokens_per_s: float  # of the whole batch
    step_ms: float  # window per decode step
    token_ms_p50: float  # time between two tokens of a request
    token_ms_p99: float
    whole_tokens_per_s: float  # as SGLang reports it, prefill included
    think_tokens: int  # LED's totals, by this run
    explored_tokens: int
    projected_rows: int
    led_steps: int
    peak_memory_mb: float | None

    @property
    def explore_rate(self) -> float | None:
        """Explored share of the tokens that LED sampled."""
        return self.explored_tokens / self.think_tokens if self.think_tokens else None


def run_of(
    arm: str,
    result: Mapping[str, Any],
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    peak_memory_mb: float | None,
) -> Run:
    """Numbers of a run.

    Args:
        result: what `bench_serving --output-details` wrote: `ttfts` and `itls` in seconds.
        before, after: LED's totals of the server (`/server_info`); empty without the plugin.

    Raises:
        BenchError: the requests never decoded together.
    """
    requests = list(zip(result["ttfts"], result["itls"], strict=True))
    begin = max(result["ttfts"])
    end = min(ttft + math.fsum(itls) for ttft, itls in requests)
    gaps = []
    for ttft, itls in requests:
        for gap, at in zip(itls, list(accumulate(itls, initial=ttft))[1:], strict=True):
            # A whole step of tolerance would count too much; rounding needs a nanosecond.
            if begin < at <= end + 1e-9:
                gaps.append(gap)
    if len(gaps) < 2 * len(requests):
        raise BenchError(
            f"{len(requests)} requests decoded together for fewer than two steps: "
            "raise --output-len, or lower --context or the batch size"
        )
    rate = len(gaps) / (end - begin)
    p50, p99 = np.quantile(gaps, (0.50, 0.99), method="inverted_cdf")

    def grew(key: str) -> int:
        return int(after.get(key, 0)) - int(before.get(key, 0))

    return Run(
        arm=arm,
        tokens_per_s=rate,
        step_ms=len(requests) / rate * 1e3,
        token_ms_p50=float(p50) * 1e3,
        token_ms_p99=float(p99) * 1e3,
        whole_tokens_per_s=float(result["output_throughput"]),
        think_tokens=grew("think_tokens"),
        explored_tokens=grew("explored_tokens"),
        projected_rows=grew("projected_rows"),
        led_steps=grew("steps"),
        peak_memory_mb=peak_memory_mb,
    )


@dataclass(frozen=True)
class Row:
    """A line of the table: medians of an arm at one batch size over its pairs."""

    batch_size: int
    arm: str
    pairs: int
    baseline_tokens_per_s: float
    tokens_per_s: float
    ratio: float  # median of the pairs' ratios of tokens per second
    ratio_low: float  # smallest and largest of them
    ratio_high: float
    added_us_per_step: float
    token_ms_p50: float
    token_ms_p99: float
    token_ms_low: float  # smallest and largest p50 of the pairs
    token_ms_high: float
    baseline_token_ms_p50: float
    explore_rate: float | None
    explorers_per_step: float | None
    projected_rows_per_step: float | None
    peak_memory_mb: float | None
    baseline_peak_memory_mb: float | None

    @property
    def scatter(self) -> float:
        """Range of the pairs' ratios, as a share of their median."""
        return (self.ratio_high - self.ratio_low) / self.ratio


def row_of(batch_size: int, pairs: Sequence[tuple[Run, Run]]) -> Row:
    """The table's line of (baseline, arm) pairs of one arm and batch size; at least one."""
    baselines, arms = zip(*pairs, strict=True)
    ratios = [arm.tokens_per_s / base.tokens_per_s for base, arm in pairs]
    added = [(arm.step_ms - base.step_ms) * 1e3 for base, arm in pairs]
    think, steps = sum(a.think_tokens for a in arms), sum(a.led_steps for a in arms)
    explored = sum(a.explored_tokens for a in arms)
    return Row(
        batch_size=batch_size,
        arm=arms[0].arm,
        pairs=len(pairs),
        baseline_tokens_per_s=statistics.median(b.tokens_per_s for b in baselines),
        tokens_per_s=statistics.median(a.tokens_per_s for a in arms),
        ratio=statistics.median(ratios),
        ratio_low=min(ratios),
        ratio_high=max(ratios),
        added_us_per_step=statistics.median(added),
        token_ms_p50=statistics.median(a.token_ms_p50 for a in arms),
        token_ms_p99=statistics.median(a.token_ms_p99 for a in arms),
        token_ms_low=min(a.token_ms_p50 for a in arms),
        token_ms_high=max(a.token_ms_p50 for a in arms),
        baseline_token_ms_p50=statistics.median(b.token_ms_p50 for b in baselines),
        explore_rate=explored / think if think else None,
        explorers_per_step=explored / steps if steps else None,
        projected_rows_per_step=sum(a.projected_rows for a in arms) / steps if steps else None,
        peak_memory_mb=_largest(arms),
        baseline_peak_memory_mb=_largest(baselines),
    )


def _largest(runs: Sequence[Run]) -> float | None:
    return max((r.peak_memory_mb for r in runs if r.peak_memory_mb is not None), default=None)
