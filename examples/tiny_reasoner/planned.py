"""The comparisons that PLAN.md names, with its verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from led_sglang.evaluation.report.tables import Table, number

# The one primary comparison; the seven others are secondary.
PRIMARY = ("pass@16", 0.6)
# Of a normal: an interval of 95% widened to one of 1 - 5% / 7 (Bonferroni).
_WIDER = 2.690 / 1.960
# Percentage points: an interval within this much of zero rules a useful difference out.
SMALL_PASS_AT_1, SMALL_PASS_AT_N = 2.0, 5.0


def planned(paired: Sequence[Mapping[str, Any]]) -> Table:
    """LED against regular decoding after RL: the primary comparison first.

    Args:
        paired: `metrics["paired"]` of the run.
    """
    entries = [entry for entry in paired if entry["sampler"] == "led"]
    entries.sort(key=lambda entry: (entry["metric"], entry["temperature"]) != PRIMARY)
    rows = []
    for entry in entries:
        is_primary = (entry["metric"], entry["temperature"]) == PRIMARY
        low, high = interval(entry, 1.0 if is_primary else _WIDER)
        rows.append(
            [
                "primary" if is_primary else "secondary",
                *(entry["metric"], f"{entry['temperature']:g}"),
                number(entry["difference"], 2, sign=True),
                f"{number(low, 2, sign=True)} .. {number(high, 2, sign=True)}",
                number(entry["detectable"], 2),
                verdict(entry["metric"], low, high),
            ]
        )
    return Table(
        "Does LED help? The comparisons that PLAN.md names",
        "LED minus regular after RL, percentage points; the verdicts are the plan's. The primary "
        "interval is at 95%, the secondary ones at 99.3%; detectable: the smallest difference "
        "with power 0.8 at 95%.",
        ["", "metric", "T", "difference", "interval", "detectable", "verdict"],
        rows,
        labels=3,
    )


def interval(entry: Mapping[str, Any], wider: float) -> tuple[float, float]:
    """The interval of an entry, its arms that many times as long."""
    mean = entry["difference"]
    return mean - wider * (mean - entry["low"]), mean + wider * (entry["high"] - mean)


def verdict(metric: str, low: float, high: float) -> str:
    """What PLAN.md makes of an interval."""
    if low > 0:
        return "LED helps"
    if high < 0:
        return "LED harms"
    most = max(-low, high)
    small = SMALL_PASS_AT_1 if metric == "pass@1" else SMALL_PASS_AT_N
    return f"no difference larger than {most:.1f}" if most <= small else "cannot tell"
