"""What an analysis leaves in its folder: a table, two figures, a summary."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from led_sglang._version import __version__
from led_sglang.analysis.statistics import COVERAGE_SIZES, VARIANTS, LayerTable, recommended_depth
from led_sglang.common.extras import need

TABLE = "layers.csv"
SUMMARY = "summary.json"
FIGURES = ("entropy.png", "coverage.png")


def write_report(
    table: LayerTable, folder: Path, threshold: float, facts: Mapping[str, Any]
) -> int:
    """Write `layers.csv`, `entropy.png`, `coverage.png` and `summary.json`.

    Args:
        facts: about the run (model, temperature, prompts), kept in the summary.

    Returns:
        The recommended depth.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    depth = recommended_depth(table, threshold)
    _write_csv(table, folder / TABLE)
    _draw(table, folder, depth, threshold, str(facts.get("model", "")))
    summary = {
        **facts,
        "led_sglang": __version__,
        "tokens": table.tokens,
        "layers": table.layers,
        "vocabulary": table.vocab,
        "recommended_depth": depth,
        "coverage_threshold": threshold,
        "least_coverage": table.least_coverage(threshold),
    }
    (folder / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return depth


def _write_csv(table: LayerTable, path: Path) -> None:
    """One row a layer and variant; `depth` counts from the final layer, which is 1."""
    heads = ["layer", "depth", "final_norm", "entropy", *(f"r_{k}" for k in COVERAGE_SIZES)]
    entropy, coverage = table.entropy.tolist(), table.coverage.tolist()
    with path.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(heads)
        for layer, variant in itertools.product(range(table.layers), range(len(VARIANTS))):
            names = (layer + 1, table.layers - layer, bool(variant))
            writer.writerow([*names, entropy[variant][layer], *coverage[variant][layer]])


def _draw(table: LayerTable, folder: Path, depth: int, threshold: float, model: str) -> None:
    need("matplotlib")
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    layers = range(1, table.layers + 1)
    name = Path(model).name

    entropy = Figure(figsize=(6, 3.6), layout="constrained")
    axes = entropy.subplots()
    for variant, label, style in ((0, "no final norm", "o-"), (1, "final norm", "s--")):
        axes.plot(layers, table.entropy[variant], style, markersize=4, label=label)
    axes.set(ylabel="normalised entropy", ylim=(0, 1.02), title=f"{name}, {table.tokens:,} tokens")

    coverage = Figure(figsize=(9, 3.6), layout="constrained")
    panels = coverage.subplots(1, 2, sharey=True)
    colours = colormaps["viridis_r"]
    for variant, (panel, title) in enumerate(
        zip(panels, ("no final norm", "final norm"), strict=True)
    ):
        for column, k in enumerate(COVERAGE_SIZES):
            colour = colours(0.15 + 0.85 * column / (len(COVERAGE_SIZES) - 1))
            values = table.coverage[variant, :, column]
            panel.plot(layers, values, "o-", markersize=3, color=colour, label=f"k = {k}")
        panel.set(title=f"{name}, {title}", ylim=(0, 1.02))
    panels[0].set_ylabel("coverage $r_k$ of the final top k")
    least = table.least_coverage(threshold)
    panels[0].axhline(least, color="0.3", linewidth=1, linestyle=":", label="least $r_{16}$")

    for figure, path in zip((entropy, coverage), FIGURES, strict=True):
        for axes in figure.axes:
            first = table.layers - depth + 1
            axes.axvspan(first - 0.5, table.layers + 0.5, color="0.5", alpha=0.12, linewidth=0)
            axes.set_xlabel(f"layer (shaded: recommended depth {depth})")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(alpha=0.25)
            axes.legend(fontsize=8)
        figure.savefig(folder / path, dpi=140)
