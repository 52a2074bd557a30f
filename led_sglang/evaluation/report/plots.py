"""Figures of the report, by Matplotlib: SVG for the HTML page, PNG beside it.

The SVG takes its ink from the page's CSS variables, so it reads in light and dark; PNGs are light.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from led_sglang.common.palette import GRID
from led_sglang.evaluation.report import accuracy_figures, token_figures
from led_sglang.evaluation.report.figure_parts import INK

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
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
}


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
            "Chance that at least one of n samples is right (unbiased estimator). Colour: sampler; "
            "line and marker: temperature.",
            accuracy_figures.pass_at_n,
        ),
        (
            "paired",
            "Paired differences",
            "Mean difference to the first sampler on the same problems, with 95% bootstrap "
            "intervals over problems; one that holds zero shows no difference. Colour: sampler; "
            "marker: temperature.",
            accuracy_figures.paired,
        ),
        (
            "alpha",
            "Accuracy against temperature",
            "Points: measured pass@n. Dashed: the least-squares plane over (temperature index, n "
            "index), one line for each n; alpha is its slope along temperature, in percentage "
            "points a step. A plane may leave 0..100%.",
            accuracy_figures.alpha,
        ),
        (
            "length",
            "Generation and think length",
            "Mean tokens of a sample. Solid: thinking; light: the rest.",
            token_figures.length,
        ),
        (
            "exploration",
            "Exploration",
            "Left: share of the think tokens that were drawn from the latent mix. Right: the depth "
            "it reached for, over all explored tokens.",
            token_figures.exploration,
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
    svg = svg.replace(INK, "var(--ink)").replace(GRID, "var(--grid)")
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", svg)
    # The page may make it smaller, not larger.
    return re.sub(
        r'(<svg[^>]*?) height="[^"]*"([^>]*?) width="([^"]*)"',
        r'\1\2 style="max-width: \3"',
        *(svg, 1),
    )
