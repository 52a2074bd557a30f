"""Figures of the report, by Matplotlib: SVG for the HTML page, PNG beside it.

The SVG takes its ink from the page's CSS variables, so it reads in light and dark; PNGs are light.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from led_sglang.common.palette import GRID
from led_sglang.evaluation.report import accuracy_figures, curve_figures, token_figures
from led_sglang.evaluation.report.figure_parts import INK

_STYLE = [
    resources.files("led_sglang.evaluation.report") / "page" / "figures.mplstyle",
    {
        **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "text.color"), INK),
        **{"xtick.color": INK, "ytick.color": INK, "grid.color": GRID},
    },
]


# In the order of the report, which has their titles and captions.
_FIGURES: dict[str, Callable[[Mapping[str, Any]], Figure | None]] = {
    "pass_at_n": curve_figures.pass_at_n,
    "cover": curve_figures.cover_at_tau,
    "paired": accuracy_figures.paired,
    "alpha": accuracy_figures.alpha,
    "length": token_figures.length,
    "exploration": token_figures.exploration,
}


def draw_all(metrics: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Draw every figure there are numbers for, and write the PNGs into `folder`.

    Returns:
        The figures as SVG, by the names of their files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {}
    with plt.style.context(_STYLE):
        for name, draw in _FIGURES.items():
            figure = draw(metrics)
            if figure is None:
                continue
            buffer = io.StringIO()
            # Never cut tight: all are as wide as the page, and their texts one size.
            figure.savefig(buffer, format="svg", metadata={"Date": None})
            drawn[name] = _themed(buffer.getvalue(), name)
            figure.set_layout_engine("none")  # it is laid out
            figure.savefig(folder / f"{name}.png", dpi=150, facecolor="white")
            plt.close(figure)
    return drawn


def _themed(svg: str, name: str) -> str:
    """The bare <svg> element, inks as CSS variables, ids unique on the page."""
    svg = svg[svg.index("<svg") :]
    svg = svg.replace(INK, "var(--ink)").replace(GRID, "var(--grid)")
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", svg)
    # The page may make it smaller, not larger.
    head, body = svg.split(">", 1)
    size = dict(re.findall(r' (width|height)="([^"]*)"', head))  # in either order, by version
    head = re.sub(r' (?:width|height)="[^"]*"', "", head)
    return f'{head} style="max-width: {size["width"]}">{body}'
