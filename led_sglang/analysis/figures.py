"""The two figures of an analysis: entropy and coverage of every layer, by group of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from led_sglang.analysis.statistics import (
    COVERAGE_SIZES,
    UNCERTAIN_P1,
    VARIANTS,
    LayerTable,
    Recommendation,
)
from led_sglang.common.extras import need

FIGURES = ("entropy.png", "coverage.png")
_NAMES = {
    "all": "all tokens",
    "uncertain": f"uncertain, p1 < {UNCERTAIN_P1:g}",
    "think": "thinking",
    "answer": "answer",
}
# Inches.
_WIDTH, _HEIGHT = 10.0, 2.7


def draw(
    tables: Mapping[str, LayerTable],
    folder: Path,
    found: Recommendation,
    facts: Mapping[str, Any],
    *,
    log: bool,
) -> None:
    """Write both as PNG, with `log` on logarithmic y axes."""
    need("matplotlib")
    from matplotlib import rc_context

    with rc_context({"font.size": 9, "axes.titlesize": "medium", "legend.fontsize": "medium"}):
        for name, fill in zip(FIGURES, (_entropy, _coverage), strict=True):
            figure = fill(tables)
            _finish(figure, tables["all"], found, log)
            caption = f"{_caption(tables, facts)}; shaded: recommended depth {found.depth}"
            figure.suptitle(caption, fontsize="medium", fontweight="bold")
            figure.savefig(folder / name, dpi=140)


def _entropy(tables: Mapping[str, LayerTable]) -> Any:
    """A panel a group; a line with the final norm, and one without."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, _HEIGHT + 0.6), layout="constrained")
    panels = figure.subplots(1, len(tables), squeeze=False, sharey=True)[0]
    for axes, (group, table) in zip(panels, tables.items(), strict=True):
        x = range(1, table.layers + 1)
        for variant, label, style in ((0, "no final norm", "C0o-"), (1, "final norm", "C1s--")):
            axes.plot(x, table.entropy[variant], style, markersize=3, label=label)
            if table.entropy_band is not None:
                low, high = table.entropy_band[:, variant]
                axes.fill_between(x, low, high, color=style[:2], alpha=0.2, linewidth=0)
        axes.set_title(_title(group, table))
    panels[0].set_ylabel("entropy / log V")
    panels[0].legend(frameon=False)
    return figure


def _coverage(tables: Mapping[str, LayerTable]) -> Any:
    """A row a group; left without the final norm, right with it; a line and its chance for each
    k."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, _HEIGHT * len(tables) + 0.6), layout="constrained")
    panels = figure.subplots(len(tables), len(VARIANTS), squeeze=False, sharey="row", sharex=True)
    for row, (group, table) in zip(panels, tables.items(), strict=True):
        x = range(1, table.layers + 1)
        for variant, name in enumerate(("no final norm", "final norm")):
            axes = row[variant]
            for column, k in enumerate(COVERAGE_SIZES):
                share = column / (len(COVERAGE_SIZES) - 1)
                colour = colormaps["viridis_r"](0.15 + 0.85 * share)
                values = table.coverage[variant, :, column]
                axes.plot(x, values, "o-", markersize=3, color=colour, label=f"k = {k}")
                if table.coverage_band is not None:
                    low, high = table.coverage_band[:, variant, :, column]
                    axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
                axes.axhline(k / table.vocab, color=colour, linewidth=0.9, linestyle=":")
            axes.set_title(f"{_title(group, table)}, {name}")
        row[0].set_ylabel("coverage $r_k$")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


def _finish(figure: Any, table: LayerTable, found: Recommendation, log: bool) -> None:
    """Axes and the shade of the recommended depth."""
    from matplotlib.ticker import MaxNLocator

    for axes in figure.axes:
        first = table.layers - found.depth + 1
        axes.axvspan(first - 0.5, table.layers + 0.5, color="0.5", alpha=0.12, linewidth=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if log:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
    rows = max(axes.get_subplotspec().rowspan.stop for axes in figure.axes)
    for axes in figure.axes:
        if axes.get_subplotspec().rowspan.stop == rows:
            axes.set_xlabel("layer")


def _title(group: str, table: LayerTable) -> str:
    return f"{_NAMES[group]} ({table.tokens:,})"


def _caption(tables: Mapping[str, LayerTable], facts: Mapping[str, Any]) -> str:
    """What was measured: model, tokens, prompts, temperature, and what the bands are."""
    parts = [Path(str(facts.get("model", ""))).name]
    if "prompts" in facts:
        parts.append(f"{facts['prompts']} prompts of {facts.get('prompt_set', 'a file')}")
    if "temperature" in facts:
        parts.append(f"T = {facts['temperature']:g}")
    text = ", ".join(part for part in parts if part)
    bands = tables["all"].entropy_band is not None
    return f"{text}; bands: 95% intervals over prompts" if bands else text
