"""Curves with bands: pass@n against n, and Cover@tau against tau."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from led_sglang.common.palette import marker
from led_sglang.evaluation.report.figure_parts import (
    by_temperature,
    cells,
    colour,
    facets,
    legend,
    line,
    panels,
    sampler_handles,
    samplers,
    show_percent,
    style_handles,
    temperatures,
)
from led_sglang.evaluation.report.summary import usable_ks

Curve = list[tuple[float, float, float, float]]
"""x, value, and the ends of its interval."""


def pass_at_n(metrics: Mapping[str, Any]) -> Figure | None:
    """pass@n of each task, and of their mean."""
    ks = usable_ks(metrics["grid"]["n"])

    def axes(axis: Axes) -> None:
        axis.set_xscale("log", base=2)
        axis.set_xticks(ks, [str(k) for k in ks])
        axis.minorticks_off()
        axis.set(xlabel="n", ylabel="pass@n, %")

    if metrics["grid"]["n"] < 2:  # no curve, and a band of no width
        return None
    return _figure(metrics, ["average"], _pass_curve, axes)


def cover_at_tau(metrics: Mapping[str, Any]) -> Figure | None:
    """Cover@tau of each task."""

    def axes(axis: Axes) -> None:
        axis.set(xlabel="tau", ylabel="Cover@tau, %", xlim=(0, 1.03))
        axis.set_xticks([0.25, 0.5, 0.75, 1.0])

    if metrics["grid"]["n"] < 2:
        return None
    return _figure(metrics, [], lambda cell: _entries(cell.get("cover@tau", {})), axes)


def _figure(
    metrics: Mapping[str, Any],
    more: list[str],
    curve: Callable[[Mapping[str, Any]], Curve],
    finish: Callable[[Axes], None],
) -> Figure | None:
    """A panel a task, or where lines are many a row of panels by temperature.

    Args:
        more: names that `cells` knows beside the tasks.
        curve: of a cell.
        finish: sets the labels and ticks of a panel.
    """
    names, steps = samplers(metrics), temperatures(metrics)
    found = {
        (task, sampler, temperature): points
        for task in [*metrics["tasks"], *more]
        for sampler in names
        for temperature in steps
        if (cell := cells(metrics, task, sampler, temperature)) and (points := curve(cell))
    }
    tasks = list(dict.fromkeys(task for task, _, _ in found))
    if not tasks:
        return None
    faceted = by_temperature(metrics, len(names))
    if faceted:
        figure, grid = facets(len(tasks), len(steps), 2.3, share_y="row")
    else:
        figure, flat = panels(len(tasks))
        grid = [[axis] * len(steps) for axis in flat]
    for task, row in zip(tasks, grid, strict=True):
        for index, (temperature, axis) in enumerate(zip(steps, row, strict=True)):
            style = 0 if faceted else index
            for sampler in names:
                drawn = found.get((task, sampler, temperature))
                if drawn:
                    _draw(axis, drawn, colour(metrics, sampler), style)
            axis.set_title(f"{task}, T = {temperature}" if faceted else task)
    for axis in dict.fromkeys(axis for row in grid for axis in row):
        finish(axis)
        show_percent(axis)
    if faceted:
        for row in grid:
            for axis in row[1:]:
                axis.set_ylabel("")
    labels = [] if faceted else [f"T = {temperature}" for temperature in steps]
    legend(figure, [*sampler_handles(metrics), *style_handles(labels, lines=True)])
    return figure


def _draw(axis: Axes, points: Curve, ink: str, style: int) -> None:
    x, values, low, high = zip(*points, strict=True)
    axis.fill_between(x, low, high, color=ink, alpha=0.13, linewidth=0)
    axis.plot(x, values, color=ink, linestyle=line(style), marker=marker(style))


def _pass_curve(cell: Mapping[str, Any]) -> Curve:
    return _entries(
        {match[1]: cell[name] for name in cell if (match := re.fullmatch(r"pass@(\d+)", name))}
    )


def _entries(entries: Mapping[str, Mapping[str, Any]]) -> Curve:
    return sorted(
        (float(x), entry["symbolic_correct"], *entry["interval"])
        for x, entry in entries.items()
        if entry["symbolic_correct"] is not None
    )
