"""Figures of the report, by Matplotlib: SVG for the HTML page, PNG beside it.

The SVG takes its ink from the page's CSS variables, so it reads in light and dark; PNGs are light.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Seven hues that read on white and on near-black, and for most colour-blind readers.
COLOURS = ("#4c8bd6", "#e07b39", "#2fa37c", "#b06fc4", "#d1495b", "#a08c2c", "#7f8794")
_LINES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "^", "D", "v")
# Stand-ins in the SVG, replaced by CSS variables.
_INK, _GRID = "#010203", "#040506"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "led",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
}
_COLUMNS = 3


@dataclass(frozen=True)
class Plot:
    """A figure of the report: its file name without suffix, title, caption and SVG text."""

    name: str
    title: str
    caption: str
    svg: str


def draw_all(metrics: Mapping[str, Any], folder: Path) -> list[Plot]:
    """Draw every figure there are numbers for, and write the PNGs into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    figures: list[tuple[str, str, str, Callable[[Mapping[str, Any]], Figure | None]]] = [
        (
            "pass_at_n",
            "pass@n against n",
            "Chance that at least one of n samples is right (unbiased estimator), for each sampler "
            "and temperature.",
            _pass_at_n,
        ),
        (
            "paired",
            "Paired differences",
            "Mean difference to the first sampler on the same problems, with 95% bootstrap "
            "intervals over problems. An interval that crosses zero shows no difference.",
            _paired,
        ),
        (
            "alpha",
            "Accuracy against temperature",
            "Points: pass@n. Dashed: the least-squares plane over (temperature index, n index); "
            "alpha is its slope along temperature, in percentage points a step.",
            _alpha,
        ),
        (
            "length",
            "Generation and think length",
            "Mean tokens of a sample. Solid: thinking; light: the rest.",
            _length,
        ),
        (
            "exploration",
            "Exploration",
            "Left: share of the think tokens that were drawn from the latent mix. Right: the depth "
            "it reached for, over all explored tokens.",
            _exploration,
        ),
    ]
    plots = []
    with matplotlib.rc_context(_STYLE):
        for name, title, caption, draw in figures:
            figure = draw(metrics)
            if figure is None:
                continue
            buffer = io.StringIO()
            figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
            plots.append(Plot(name, title, caption, _themed(buffer.getvalue(), name)))
            figure.savefig(folder / f"{name}.png", dpi=150, bbox_inches="tight", facecolor="white")
            plt.close(figure)
    return plots


def _themed(svg: str, name: str) -> str:
    """The bare <svg> element, inks as CSS variables, ids unique on the page."""
    svg = svg[svg.index("<svg") :]
    svg = svg.replace(_INK, "var(--ink)").replace(_GRID, "var(--grid)")
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", svg)
    # The page may make it smaller, not larger.
    return re.sub(
        r'(<svg[^>]*?) height="[^"]*"([^>]*?) width="([^"]*)"',
        r'\1\2 style="max-width: \3"',
        *(svg, 1),
    )


def _panels(count: int, height: float = 2.6) -> tuple[Figure, list[Axes]]:
    columns = 2 if count == 4 else min(count, _COLUMNS)
    rows = math.ceil(count / columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(10.5 / max(columns, 2) * columns, height * rows),
        squeeze=False,
        layout="constrained",
    )
    flat = list(axes.flat)
    for spare in flat[count:]:
        spare.set_visible(False)
    return figure, flat[:count]


def _legend(figure: Figure, axes: Axes, columns: int = 4) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def _samplers(metrics: Mapping[str, Any]) -> list[str]:
    return [sampler["label"] for sampler in metrics["grid"]["samplers"]]


def _temperatures(metrics: Mapping[str, Any]) -> list[str]:
    return [f"{t:g}" for t in metrics["grid"]["temperatures"]]


def _colour(metrics: Mapping[str, Any], sampler: str) -> str:
    return COLOURS[_samplers(metrics).index(sampler) % len(COLOURS)]


def curve(cell: Mapping[str, Any]) -> dict[int, float]:
    """pass@k of a cell by k, where there is a number."""
    found = {}
    for name, values in cell.items():
        match = re.fullmatch(r"pass@(\d+)", name)
        if match and values["symbolic_correct"] is not None:
            found[int(match[1])] = values["symbolic_correct"]
    return dict(sorted(found.items()))


def _pass_at_n(metrics: Mapping[str, Any]) -> Figure | None:
    curves = {
        (task, sampler, temperature): points
        for task, samplers in metrics["tasks"].items()
        for sampler, temperatures in samplers.items()
        for temperature, cell in temperatures.items()
        if (points := curve(cell))
    }
    tasks = list(dict.fromkeys(task for task, _, _ in curves))
    if not tasks:
        return None
    figure, axes = _panels(len(tasks))
    for task, axis in zip(tasks, axes, strict=True):
        for sampler in _samplers(metrics):
            for index, temperature in enumerate(_temperatures(metrics)):
                points = curves.get((task, sampler, temperature), {})
                if not points:
                    continue
                axis.plot(
                    list(points),
                    list(points.values()),
                    color=_colour(metrics, sampler),
                    linestyle=_LINES[index % len(_LINES)],
                    marker=_MARKERS[index % len(_MARKERS)],
                    markersize=4,
                    label=f"{sampler}, T = {temperature}",
                )
        ks = sorted({k for (t, _, _), points in curves.items() if t == task for k in points})
        axis.set_xscale("log", base=2)
        axis.set_xticks(ks, [str(k) for k in ks])
        axis.set_title(task)
        axis.set_xlabel("n")
        axis.set_ylabel("pass@n, %")
    _legend(figure, axes[0])
    return figure


def _paired(metrics: Mapping[str, Any]) -> Figure | None:
    entries = metrics["paired"]
    if not entries:
        return None
    names = list(dict.fromkeys(entry["metric"] for entry in entries))
    rows = list(dict.fromkeys((e["task"], e["sampler"], e["temperature"]) for e in entries))
    figure, axes = plt.subplots(
        *(1, len(names)),
        figsize=(4.9 * len(names), 0.8 + 0.24 * len(rows)),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    for name, axis in zip(names, axes.flat, strict=True):
        for entry in entries:
            if entry["metric"] != name:
                continue
            row = rows.index((entry["task"], entry["sampler"], entry["temperature"]))
            colour = _colour(metrics, entry["sampler"])
            axis.plot([entry["low"], entry["high"]], [row, row], color=colour, linewidth=2)
            axis.plot(entry["difference"], row, "o", color=colour, markersize=5)
        axis.axvline(0, color=_INK, linewidth=0.8)
        axis.set_title(f"{name}, difference to {entries[0]['baseline']}")
        axis.set_xlabel("percentage points")
    axes[0][0].set_yticks(range(len(rows)), [f"{task}, {s}, T = {t:g}" for task, s, t in rows])
    axes[0][0].set_ylim(len(rows) - 0.4, -0.6)
    return figure


def _alpha(metrics: Mapping[str, Any]) -> Figure | None:
    entries = metrics["alpha"]
    if not entries:
        return None
    tasks = {entry["task"] for entry in entries}
    shown = [e for e in entries if e["task"] == "average" or "average" not in tasks]
    figure, axes = _panels(len(shown))
    for entry, axis in zip(shown, axes, strict=True):
        steps = range(len(entry["temperatures"]))
        for index, k in enumerate(entry["ks"]):
            colour = COLOURS[index % len(COLOURS)]
            measured = [row[index] for row in entry["accuracy"]]
            plane = [
                entry["intercept"] + entry["alpha"] * step + entry["beta"] * index for step in steps
            ]
            axis.plot(steps, measured, "o", color=colour, markersize=5, label=f"pass@{k}")
            axis.plot(steps, plane, "--", color=colour, linewidth=1.2)
        axis.set_xticks(steps, [f"{t:g}" for t in entry["temperatures"]])
        axis.set_title(f"{entry['sampler']}, {entry['task']}: alpha = {entry['alpha']:+.2f}")
        axis.set_xlabel("temperature")
        axis.set_ylabel("accuracy, %")
    _legend(figure, axes[0], columns=5)
    return figure


def _length(metrics: Mapping[str, Any]) -> Figure | None:
    tasks = metrics["tasks"]
    if not tasks:
        return None
    figure, axes = _panels(len(tasks))
    samplers, temperatures = _samplers(metrics), _temperatures(metrics)
    width = 0.8 / len(samplers)
    for (task, cells), axis in zip(tasks.items(), axes, strict=True):
        for index, sampler in enumerate(samplers):
            for step, temperature in enumerate(temperatures):
                cell = cells.get(sampler, {}).get(temperature)
                if cell is None:
                    continue
                first = cell[f"pass@1[avg-of-{metrics['grid']['n']}]"]
                place = step + (index - (len(samplers) - 1) / 2) * width
                thought = first["avg_thinking_tokens"] or 0.0
                colour = _colour(metrics, sampler)
                axis.bar(place, first["avg_tokens"], width * 0.9, color=colour, alpha=0.35)
                axis.bar(
                    *(place, thought, width * 0.9),
                    color=colour,
                    label=sampler if step == 0 else None,
                )
        axis.set_xticks(range(len(temperatures)), temperatures)
        axis.grid(visible=False, axis="x")
        axis.set_title(task)
        axis.set_xlabel("temperature")
        axis.set_ylabel("tokens")
    _legend(figure, axes[0])
    return figure


def _exploration(metrics: Mapping[str, Any]) -> Figure | None:
    totals = {
        (sampler, temperature): total
        for sampler in _samplers(metrics)
        for temperature in _temperatures(metrics)
        if (total := _explored(metrics, sampler, temperature)) is not None
    }
    if not totals:
        return None
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.9, 2.9), layout="constrained")
    temperatures = _temperatures(metrics)
    names = [f"{sampler}, T = {temperature}" for sampler, temperature in totals]
    depths = sorted({depth for _, _, histogram in totals.values() for depth in histogram})
    width = 0.8 / len(totals)
    for index, ((sampler, temperature), (thought, explored, histogram)) in enumerate(
        totals.items()
    ):
        shade = 1 - 0.6 * temperatures.index(temperature) / max(1, len(temperatures))
        colour = _colour(metrics, sampler)
        left.bar(index, 100 * explored / thought, 0.7, color=colour, alpha=shade)
        places = [depth + (index - (len(totals) - 1) / 2) * width for depth in depths]
        shares = [100 * histogram.get(depth, 0) / max(explored, 1) for depth in depths]
        right.bar(places, shares, width * 0.9, color=colour, alpha=shade, label=names[index])
    left.set_xticks(range(len(names)), names)
    left.tick_params(axis="x", labelrotation=20 if len(names) > 3 else 0)
    left.set_ylabel("explored, % of think tokens")
    left.set_title("Explored share")
    right.set_xticks(depths)
    right.set_xlabel("depth (1 = final layer)")
    right.set_ylabel("% of explored tokens")
    right.set_title("Chosen depth")
    right.legend(fontsize=8)
    for axis in (left, right):
        axis.grid(visible=False, axis="x")
    return figure


def _explored(
    metrics: Mapping[str, Any], sampler: str, temperature: str
) -> tuple[int, int, dict[int, int]] | None:
    """Think tokens, explored tokens and depths over all tasks; None without statistics."""
    reports: Sequence[Mapping[str, Any]] = [
        cell["led"]
        for samplers in metrics["tasks"].values()
        if (cell := samplers.get(sampler, {}).get(temperature)) and cell["led"]
    ]
    if not reports:
        return None
    depths: dict[int, int] = {}
    for report in reports:
        for depth, count in report["depth_histogram"].items():
            depths[int(depth)] = depths.get(int(depth), 0) + count
    return (
        sum(report["think_tokens"] for report in reports),
        sum(report["explored_tokens"] for report in reports),
        depths,
    )
