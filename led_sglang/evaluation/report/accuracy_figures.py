"""Figures of accuracy: pass@n curves, paired differences, and the plane behind alpha."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from led_sglang.common.palette import GRID, marker
from led_sglang.evaluation.report.figure_parts import (
    INK,
    colour,
    legend,
    line,
    panels,
    sampler_handles,
    samplers,
    show_percent,
    style_handles,
    temperatures,
)

Curve = dict[int, float]


def pass_at_n(metrics: Mapping[str, Any]) -> Figure | None:
    """A panel for each task, and one for their mean."""
    curves = _curves(metrics)
    tasks = list(dict.fromkeys(task for task, _, _ in curves))
    if not tasks:
        return None
    figure, axes = panels(len(tasks))
    for task, axis in zip(tasks, axes, strict=True):
        for sampler in samplers(metrics):
            for index, temperature in enumerate(temperatures(metrics)):
                points = curves.get((task, sampler, temperature))
                if points:
                    axis.plot(
                        list(points),
                        list(points.values()),
                        color=colour(metrics, sampler),
                        linestyle=line(index),
                        marker=marker(index),
                        markersize=4,
                    )
        ks = sorted({k for (t, _, _), points in curves.items() if t == task for k in points})
        axis.set_xscale("log", base=2)
        axis.set_xticks(ks, [str(k) for k in ks])
        axis.minorticks_off()
        show_percent(axis)
        axis.set(title=task, xlabel="n", ylabel="pass@n, %")
    labels = [f"T = {temperature}" for temperature in temperatures(metrics)]
    legend(figure, [*sampler_handles(metrics), *style_handles(labels, lines=True)])
    return figure


def _curves(metrics: Mapping[str, Any]) -> dict[tuple[str, str, str], Curve]:
    """pass@k by k, of each task, sampler and temperature; the mean where every task has one."""
    tasks = metrics["tasks"]
    found = {
        (task, sampler, temperature): points
        for task, by_sampler in tasks.items()
        for sampler, by_temperature in by_sampler.items()
        for temperature, cell in by_temperature.items()
        if (points := _curve(cell))
    }
    for sampler in samplers(metrics):
        for temperature in temperatures(metrics):
            columns = [found.get((task, sampler, temperature), {}) for task in tasks]
            ks = set.intersection(*(set(column) for column in columns)) if len(tasks) > 1 else set()
            if ks:
                found["average", sampler, temperature] = {
                    k: sum(column[k] for column in columns) / len(columns) for k in sorted(ks)
                }
    return found


def _curve(cell: Mapping[str, Any]) -> Curve:
    found = {}
    for name, values in cell.items():
        match = re.fullmatch(r"pass@(\d+)", name)
        if match and values["symbolic_correct"] is not None:
            found[int(match[1])] = values["symbolic_correct"]
    return dict(sorted(found.items()))


def paired(metrics: Mapping[str, Any]) -> Figure | None:
    """Mean differences to the first sampler with their intervals, a panel for each k."""
    entries = metrics["paired"]
    if not entries:
        return None
    names = list(dict.fromkeys(entry["metric"] for entry in entries))
    tasks = list(dict.fromkeys(entry["task"] for entry in entries))
    others = list(dict.fromkeys(entry["sampler"] for entry in entries))
    steps = metrics["grid"]["temperatures"]
    # One row a task; within it a line for each sampler and temperature.
    pitch = 0.8 / (len(others) * len(steps))
    figure, axes = plt.subplots(
        *(1, len(names)),
        figsize=(10.5, 1.0 + len(tasks) * max(0.4, 0.13 / pitch)),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    for name, axis in zip(names, axes.flat, strict=True):
        for entry in entries:
            if entry["metric"] != name:
                continue
            step = steps.index(entry["temperature"])
            line_of = others.index(entry["sampler"]) * len(steps) + step
            place = tasks.index(entry["task"]) - 0.4 + (line_of + 0.5) * pitch
            ink = colour(metrics, entry["sampler"])
            axis.plot([entry["low"], entry["high"]], [place, place], color=ink, linewidth=1.6)
            axis.plot(entry["difference"], place, marker(step), color=ink, markersize=4.5)
        for edge in range(1, len(tasks)):
            axis.axhline(edge - 0.5, color=GRID, linewidth=0.8)
        axis.axvline(0, color=INK, linewidth=0.8)
        axis.grid(visible=False, axis="y")
        # Not a microscope: differences of less than a point fill no panel.
        low, high = axis.get_xlim()
        axis.set_xlim(min(low, -1), max(high, 1))
        axis.set(
            title=f"{name}, difference to {entries[0]['baseline']}", xlabel="percentage points"
        )
    axes[0][0].set_yticks(range(len(tasks)), tasks)
    axes[0][0].set_ylim(len(tasks) - 0.5, -0.5)
    labels = [f"T = {step:g}" for step in steps]
    handles = [h for h in sampler_handles(metrics) if h.get_label() in others]
    legend(figure, [*handles, *style_handles(labels, lines=False)])
    return figure


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
        for index in range(len(entry["ks"])):
            measured = [row[index] for row in entry["accuracy"]]
            plane = [
                entry["intercept"] + entry["alpha"] * step + entry["beta"] * index for step in steps
            ]
            axis.plot(steps, measured, marker(index), color=ink, markersize=5)
            axis.plot(steps, plane, "--", color=ink, linewidth=1.0)
        axis.set_xticks(steps, [f"{t:g}" for t in entry["temperatures"]])
        axis.set(
            title=f"{entry['sampler']}, {entry['task']}: alpha = {entry['alpha']:+.2f}",
            xlabel="temperature",
            ylabel="accuracy, %",
        )
        axis.tick_params(labelleft=True)
        show_percent(axis)
    legend(figure, style_handles([f"pass@{k}" for k in shown[0]["ks"]], lines=False))
    return figure
