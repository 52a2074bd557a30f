"""The picture: ratio against batch size, and time per token against explore rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from led_sglang.bench.numbers import Row
from led_sglang.bench.plan import Plan
from led_sglang.common.palette import GRID, colour, marker

# One text size, as in the other figures.
_STYLE = {
    "font.size": 9,
    **dict.fromkeys(
        ("axes.titlesize", "axes.labelsize", "xtick.labelsize", "ytick.labelsize"), "medium"
    ),
    **{"legend.fontsize": "medium", "figure.titlesize": "medium"},
}


def draw(rows: Sequence[Row], plan: Plan, machine: Mapping[str, Any], path: Path) -> None:
    """Write a PNG with both panels; the second one only where explore rates were measured."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rated = [row for row in rows if row.explore_rate is not None]
    count = 2 if rated else 1
    with plt.rc_context(_STYLE):
        figure, panels = plt.subplots(
            1, count, figsize=(5.2 * count, 4.2), squeeze=False, layout="constrained"
        )
        figure.suptitle(title(plan, machine), fontweight="bold")
        _ratios(panels[0][0], rows, plan)
        if count == 2:
            _times(panels[0][1], rated, plan)
        for axis in panels[0]:
            axis.grid(color=GRID, linewidth=0.7)
            axis.set_axisbelow(True)
            axis.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, dpi=150)
        plt.close(figure)


def title(plan: Plan, machine: Mapping[str, Any]) -> str:
    """Model, machine and date, on two lines."""
    model = Path(str(plan.facts.get("model", "model"))).name
    device = machine.get("device")
    place = machine.get("processor", "") if device in (None, "CPU") else device
    details = [str(part) for part in (place, machine.get("date")) if part]
    return "\n".join([model, ", ".join(details)]).strip()


def _ratios(axis: Any, rows: Sequence[Row], plan: Plan) -> None:
    sizes = sorted({row.batch_size for row in rows})
    arms = list(dict.fromkeys(row.arm for row in rows))
    for index, arm in enumerate(arms):
        mine = [row for row in rows if row.arm == arm]
        # Side by side, so that no bar hides another.
        shift = (index - (len(arms) - 1) / 2) * 0.08
        axis.errorbar(
            [sizes.index(row.batch_size) + shift for row in mine],
            [row.ratio for row in mine],
            yerr=_arms([(row.ratio, row.ratio_low, row.ratio_high) for row in mine]),
            color=colour(index),
            marker=marker(index),
            capsize=3,
            label=arm,
        )
    axis.axhline(1.0, color="#7f8794", linewidth=1, linestyle="--")
    axis.set_xticks(range(len(sizes)), [str(size) for size in sizes])
    axis.set_xlim(-0.5, len(sizes) - 0.5)
    axis.set(xlabel="batch size", ylabel=f"tokens per second, ratio to {plan.baseline.name}")
    axis.set_title(f"Throughput: median and range of {plan.repeats} pairs")
    _legend(axis)


def _times(axis: Any, rows: Sequence[Row], plan: Plan) -> None:
    """Measured points, and the baseline as a level: it was measured, but explores nothing."""
    for index, size in enumerate(sorted({row.batch_size for row in rows})):
        mine = sorted(
            (row for row in rows if row.batch_size == size), key=lambda row: row.explore_rate or 0
        )
        axis.errorbar(
            [100 * (row.explore_rate or 0) for row in mine],
            [row.token_ms_p50 for row in mine],
            yerr=_arms([(row.token_ms_p50, row.token_ms_low, row.token_ms_high) for row in mine]),
            color=colour(index),
            marker=marker(index),
            capsize=3,
            label=f"batch {size}",
        )
        axis.axhline(
            mine[0].baseline_token_ms_p50,
            color=colour(index),
            linewidth=1,
            linestyle="--",
            label=f"{plan.baseline.name}, batch {size}",
        )
    axis.set_ylim(bottom=0)
    axis.set(xlabel="tokens explored, % (measured)", ylabel="ms per token of a request, median")
    axis.set_title("Time per token: median and range of the pairs")
    _legend(axis)


def _arms(points: Sequence[tuple[float, float, float]]) -> list[list[float]]:
    """Of error bars: below and above each value; points are (value, low, high)."""
    return [
        [value - low for value, low, _ in points],
        [high - value for value, _, high in points],
    ]


def _legend(axis: Any) -> None:
    """Below the panel, where it hides nothing."""
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False)
