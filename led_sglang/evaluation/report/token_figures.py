"""Figures of tokens: lengths, and what was explored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from led_sglang.evaluation.report.figure_parts import (
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
    for (task, cells), axis in zip(tasks.items(), axes, strict=True):
        for index, sampler in enumerate(names):
            for step, temperature in enumerate(steps):
                cell = cells.get(sampler, {}).get(temperature)
                if cell is None:
                    continue
                first = cell[f"pass@1[avg-of-{metrics['grid']['n']}]"]
                place = step + (index - (len(names) - 1) / 2) * width
                ink = colour(metrics, sampler)
                axis.bar(place, first["avg_tokens"], width * 0.9, color=ink, alpha=0.35)
                axis.bar(place, first["avg_thinking_tokens"] or 0.0, width * 0.9, color=ink)
        axis.set_xticks(range(len(steps)), steps)
        axis.grid(visible=False, axis="x")
        axis.set(title=task, xlabel="temperature", ylabel="tokens")
    legend(figure, sampler_handles(metrics))
    return figure


def exploration(metrics: Mapping[str, Any]) -> Figure | None:
    """Share of explored tokens and histogram of depths; None where no server reported them."""
    totals = {
        (sampler, temperature): total
        for sampler in samplers(metrics)
        for temperature in temperatures(metrics)
        if (total := _explored(metrics, sampler, temperature)) is not None
    }
    if not totals:
        return None
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.2, 2.9), layout="constrained")
    steps = temperatures(metrics)
    names = [f"{sampler}, T = {temperature}" for sampler, temperature in totals]
    deepest = max((depth for _, _, depths in totals.values() for depth in depths), default=1)
    places = range(1, deepest + 1)
    width = 0.8 / len(totals)
    for index, ((sampler, temperature), (thought, explored, depths)) in enumerate(totals.items()):
        shade = 1 - 0.6 * steps.index(temperature) / len(steps)
        ink = colour(metrics, sampler)
        left.bar(index, 100 * explored / thought, 0.7, color=ink, alpha=shade)
        right.bar(
            [depth + (index - (len(totals) - 1) / 2) * width for depth in places],
            [100 * depths[depth] / max(explored, 1) for depth in places],
            width * 0.9,
            color=ink,
            alpha=shade,
            label=names[index],
        )
    left.set_xticks(range(len(names)), names)
    left.tick_params(axis="x", labelrotation=20 if len(names) > 3 else 0)
    left.set(ylabel="explored, % of think tokens", title="Explored share")
    right.set_xticks(places)
    right.set(xlabel="depth (1 = final layer)", ylabel="% of explored tokens", title="Chosen depth")
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=6)
    for axis in (left, right):
        axis.grid(visible=False, axis="x")
    return figure


def _explored(
    metrics: Mapping[str, Any], sampler: str, temperature: str
) -> tuple[int, int, Counter[int]] | None:
    """Think tokens, explored tokens and depths over all tasks; None without statistics."""
    reports = [
        cell["led"]
        for by_sampler in metrics["tasks"].values()
        if (cell := by_sampler.get(sampler, {}).get(temperature)) and cell["led"]
    ]
    if not reports:
        return None
    depths: Counter[int] = Counter()
    for report in reports:
        for depth, count in report["depth_histogram"].items():
            depths[int(depth)] += count
    return (
        sum(report["think_tokens"] for report in reports),
        sum(report["explored_tokens"] for report in reports),
        depths,
    )
