"""Figures of differences: samplers against the first one, and the plane behind alpha."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from led_sglang.common.palette import GRID, marker
from led_sglang.evaluation.report.figure_parts import (
    INK,
    by_temperature,
    cells,
    colour,
    facets,
    legend,
    panels,
    sampler_handles,
    show_percent,
    style_handles,
    temperatures,
)


def paired(metrics: Mapping[str, Any]) -> Figure | None:
    """Mean differences to the first sampler with their intervals, a panel for each k."""
    entries = metrics["paired"]
    if not entries:
        return None
    names = list(dict.fromkeys(entry["metric"] for entry in entries))
    tasks = list(dict.fromkeys(entry["task"] for entry in entries))
    others = list(dict.fromkeys(entry["sampler"] for entry in entries))
    steps = temperatures(metrics)
    faceted = by_temperature(metrics, len(others))
    lines = len(others) if faceted else len(others) * len(steps)
    height = 0.7 + len(tasks) * max(0.4, 0.17 * lines)
    figure, grid = facets(
        *((len(names), len(steps)) if faceted else (1, len(names))), height, share_y=True
    )
    for entry in entries:
        step, metric = steps.index(f"{entry['temperature']:g}"), names.index(entry["metric"])
        axis = grid[metric][step] if faceted else grid[0][metric]
        other = others.index(entry["sampler"])
        line_of = other if faceted else other * len(steps) + step
        place = tasks.index(entry["task"]) - 0.4 + (line_of + 0.5) * 0.8 / lines
        ink = colour(metrics, entry["sampler"])
        missed = min(entry["detectable"], 100.0)  # shares are no further apart
        blind = [-missed, missed]
        axis.plot(blind, [place] * 2, color=ink, linewidth=6, alpha=0.16, solid_capstyle="butt")
        axis.plot([entry["low"], entry["high"]], [place] * 2, color=ink)
        axis.plot(entry["difference"], place, marker(0 if faceted else step), color=ink)
    for row, name in zip(grid if faceted else grid * len(names), names, strict=True):
        for step, axis in enumerate(row if faceted else [row[names.index(name)]]):
            shown = f"{name}, T = {steps[step]}" if faceted else name
            _finish(axis, f"{shown}: minus {entries[0]['baseline']}", tasks)
    handles = sampler_handles(metrics, others)
    labels = [] if faceted else [f"T = {step}" for step in steps]
    legend(figure, [*handles, *style_handles(labels, lines=False)])
    return figure


def _finish(axis: Axes, title: str, tasks: list[str]) -> None:
    for edge in range(1, len(tasks)):
        axis.axhline(edge - 0.5, color=GRID, linewidth=0.8)
    axis.axvline(0, color=INK, linewidth=0.8)
    axis.grid(visible=False, axis="y")
    # Not a microscope: differences of less than a point fill no panel.
    low, high = axis.get_xlim()
    axis.set_xlim(min(low, -1), max(high, 1))
    axis.set(title=title, xlabel="percentage points")
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.set_yticks(range(len(tasks)), tasks)
    axis.set_ylim(len(tasks) - 0.5, -0.5)


def alpha(metrics: Mapping[str, Any]) -> Figure | None:
    """Accuracy against temperature and the fitted plane: of the mean over tasks, or each task."""
    entries = metrics["alpha"]
    if not entries:
        return None
    tasks = {entry["task"] for entry in entries}
    shown = [e for e in entries if e["task"] == "average" or "average" not in tasks]
    figure, axes = panels(len(shown), share_y=True)
    for entry, axis in zip(shown, axes, strict=True):
        steps = range(len(entry["temperatures"]))
        ink = colour(metrics, entry["sampler"])
        for index, k in enumerate(entry["ks"]):
            # Side by side, so that no bar hides another.
            shift = 0.06 * (index - (len(entry["ks"]) - 1) / 2)
            plane = [
                entry["intercept"] + entry["alpha"] * step + entry["beta"] * index for step in steps
            ]
            axis.plot(steps, plane, "--", color=ink, linewidth=1.0)
            for step, temperature in enumerate(entry["temperatures"]):
                cell = cells(metrics, entry["task"], entry["sampler"], f"{temperature:g}")
                found = cell and cell.get(f"pass@{k}")
                if found:
                    axis.plot([step + shift] * 2, found["interval"], color=ink, linewidth=1.0)
                axis.plot(step + shift, entry["accuracy"][step][index], marker(index), color=ink)
        axis.set_xticks(steps, [f"{t:g}" for t in entry["temperatures"]])
        axis.set(
            title=f"{entry['sampler']}, {entry['task']}\n"
            f"alpha = {entry['alpha']:+.1f} ({entry['low']:+.1f} .. {entry['high']:+.1f})",
            xlabel="temperature, in equal steps as fitted",
            ylabel="accuracy, %",
        )
        axis.tick_params(labelleft=True)
        show_percent(axis)
    legend(figure, style_handles([f"pass@{k}" for k in shown[0]["ks"]], lines=False))
    return figure
