"""Figures of tokens: lengths, and what was explored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from led_sglang.evaluation.report.figure_parts import (
    INK,
    by_temperature,
    cells,
    colour,
    legend,
    panels,
    sampler_handles,
    samplers,
    temperatures,
)


def length(metrics: Mapping[str, Any]) -> Figure | None:
    """Mean tokens of a sample, and how many of them are thinking."""
    tasks = metrics["tasks"]
    if not tasks:
        return None
    figure, axes = panels(len(tasks))
    names, steps = samplers(metrics), temperatures(metrics)
    width = 0.8 / len(names)
    for task, axis in zip(tasks, axes, strict=True):
        for index, sampler in enumerate(names):
            for step, temperature in enumerate(steps):
                cell = cells(metrics, task, sampler, temperature)
                if cell is None:
                    continue
                first = cell[f"pass@1[avg-of-{metrics['grid']['n']}]"]
                place = step + (index - (len(names) - 1) / 2) * width
                ink = colour(metrics, sampler)
                axis.bar(place, first["avg_tokens"], width * 0.9, color=ink, alpha=0.35)
                axis.bar(place, first["avg_thinking_tokens"] or 0.0, width * 0.9, color=ink)
                _bar(axis, place, first["avg_tokens_interval"])
        axis.set_xticks(range(len(steps)), steps)
        axis.grid(visible=False, axis="x")
        axis.set(title=task, xlabel="temperature", ylabel="tokens")
    legend(figure, sampler_handles(metrics))
    return figure


def exploration(metrics: Mapping[str, Any]) -> Figure | None:
    """Share of explored tokens and histogram of depths; None where no server reported them."""
    steps, tasks = temperatures(metrics), list(metrics["tasks"])
    over = "average" if len(tasks) > 1 else tasks[0] if tasks else ""
    reports = {
        (sampler, temperature): cell["led"]
        for sampler in samplers(metrics)
        for temperature in steps
        if (cell := cells(metrics, over, sampler, temperature)) and cell["led"]
    }
    if not reports:
        return None
    names = list(dict.fromkeys(sampler for sampler, _ in reports))
    faceted = by_temperature(metrics, len(names))
    figure, (left, *others) = panels(1 + (len(steps) if faceted else 1))
    width = 0.8 / len(names)
    for (sampler, temperature), report in reports.items():
        place = steps.index(temperature) + (names.index(sampler) - (len(names) - 1) / 2) * width
        ink = colour(metrics, sampler)
        shade = 1.0 if faceted else _shade(steps, temperature)
        left.bar(place, 100 * report["explored_share"], width * 0.9, color=ink, alpha=shade)
        ends = report["explored_interval"]
        _bar(left, place, ends and [100 * end for end in ends])
    left.set_xticks(range(len(steps)), steps)
    left.set(title="Explored share", xlabel="temperature", ylabel="explored, % of think tokens")
    for index, axis in enumerate(others):
        shown = {
            key: {int(d): count for d, count in report["depth_histogram"].items()}
            for key, report in reports.items()
            if not faceted or key[1] == steps[index]
        }
        _histogram(axis, metrics, shown, faceted)
        axis.set_title(f"Chosen depth, T = {steps[index]}" if faceted else "Chosen depth")
    handles: list[Any] = sampler_handles(metrics, names)
    if not faceted:
        # A shade a temperature: the bars have labels of their own.
        handles = list(others[0].containers)
    legend(figure, handles)
    for axis in (left, *others):
        axis.grid(visible=False, axis="x")
    return figure


def _histogram(
    axis: Axes,
    metrics: Mapping[str, Any],
    shown: Mapping[tuple[str, str], Mapping[int, int]],
    faceted: bool,
) -> None:
    """Bars of the depths, side by side by sampler and temperature."""
    steps = temperatures(metrics)
    deepest = max((depth for depths in shown.values() for depth in depths), default=1)
    places, width = range(1, deepest + 1), 0.8 / max(len(shown), 1)
    for index, ((sampler, temperature), depths) in enumerate(shown.items()):
        total = max(sum(depths.values()), 1)
        axis.bar(
            [depth + (index - (len(shown) - 1) / 2) * width for depth in places],
            [100 * depths.get(depth, 0) / total for depth in places],
            width * 0.9,
            color=colour(metrics, sampler),
            alpha=1.0 if faceted else _shade(steps, temperature),
            label=f"{sampler}, T = {temperature}",
        )
    axis.set_xticks(places)
    axis.set(xlabel="depth (1 = final layer)", ylabel="% of explored tokens")


def _bar(axis: Axes, place: float, ends: list[float] | None) -> None:
    """The interval of a bar."""
    if ends is not None:
        axis.plot([place, place], ends, color=INK, linewidth=1.0)


def _shade(steps: list[str], temperature: str) -> float:
    return 1 - 0.6 * steps.index(temperature) / len(steps)
