"""What the report's figures share: colours, panels, legends, and access to the metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from led_sglang.common import palette
from led_sglang.common.palette import marker

LINES = ("-", "--", ":", "-.")
# A stand-in in the SVG, replaced by a CSS variable as `GRID` is; PNGs keep them.
INK = "#010203"
# Every figure is as wide as the page, so that one text size stays one.
WIDTH = 10.5

_COLUMNS = 3
# More lines than these cannot be told apart in one panel.
_LINES_OF_A_PANEL = 4


def panels(count: int, height: float = 2.6, *, share_y: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure of page width with so many panels, at most three in a row."""
    columns = 2 if count == 4 else min(count, _COLUMNS)
    figure, axes = facets(math.ceil(count / columns), columns, height, share_y=share_y)
    flat = [axis for row in axes for axis in row]
    for spare in flat[count:]:
        spare.set_visible(False)
    return figure, flat[:count]


def facets(
    rows: int, columns: int, height: float = 2.6, *, share_y: bool | str = False
) -> tuple[Figure, list[list[Axes]]]:
    """A figure of page width with a grid of panels."""
    figure, axes = plt.subplots(
        *(rows, columns),
        figsize=(WIDTH, height * rows + 0.4),
        squeeze=False,
        sharey=share_y,
        layout="constrained",
    )
    figure.get_layout_engine().set(h_pad=0.1)
    return figure, [list(row) for row in axes]


def by_temperature(metrics: Mapping[str, Any], lines: int) -> bool:
    """Whether so many lines a temperature want a panel for each temperature."""
    return lines * len(temperatures(metrics)) > _LINES_OF_A_PANEL


def legend(figure: Figure, handles: Sequence[Any]) -> None:
    """One legend below all panels."""
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6))


def sampler_handles(metrics: Mapping[str, Any], names: Sequence[str] | None = None) -> list[Patch]:
    """Of all samplers, or of some."""
    shown = samplers(metrics) if names is None else names
    return [Patch(color=colour(metrics, name), label=name) for name in shown]


def style_handles(labels: Sequence[str], *, lines: bool) -> list[Line2D]:
    """Handles in the page's ink: a marker each, and a line style each if `lines`."""
    return [
        Line2D(
            *([], []),
            color=INK,
            marker=marker(index),
            linestyle=line(index) if lines else "none",
            label=label,
        )
        for index, label in enumerate(labels)
    ]


def show_percent(axis: Axes) -> None:
    """At least ten points of the scale: equal numbers are a line, not a magnified nothing."""
    low, high = axis.get_ylim()
    if high - low < 10:
        middle = min(max((low + high) / 2, 4.5), 95.5)
        axis.set_ylim(middle - 5, middle + 5)


def line(index: int) -> str:
    return LINES[index % len(LINES)]


def samplers(metrics: Mapping[str, Any]) -> list[str]:
    return [sampler["label"] for sampler in metrics["grid"]["samplers"]]


def temperatures(metrics: Mapping[str, Any]) -> list[str]:
    return [f"{t:g}" for t in metrics["grid"]["temperatures"]]


def colour(metrics: Mapping[str, Any], sampler: str) -> str:
    return palette.colour(samplers(metrics).index(sampler))


def cells(metrics: Mapping[str, Any], task: str, sampler: str, temperature: str) -> Any:
    """The metrics of a cell, or of the mean over tasks, which is called `average`; None without."""
    found = metrics["average"] if task == "average" else metrics["tasks"].get(task, {})
    return found.get(sampler, {}).get(temperature)
