"""The plots of RESULTS.md."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from led_sglang.common.palette import COLOURS
from led_sglang.evaluation.report.plots import draw_all

LABELS = {"before": "before RL", "after": "after RL"}
_SHADES = {"before": "#8fb8e8", "after": "#e07b39"}


def draw(
    runs: Mapping[str, Mapping[str, Any]],
    layers: Mapping[str, Sequence[Mapping[str, float]]],
    folder: Path,
) -> None:
    """Write all plots.

    Args:
        runs: `metrics.json` of the runs `before` and `after`.
        layers: rows of `layers.csv` of both checkpoints, see `results.read_layers`.
        folder: where to; it is made anew.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _accuracy(runs).savefig(folder / "accuracy.png", dpi=130)
    _layers(layers).savefig(folder / "layers.png", dpi=130)
    for label in LABELS:
        run, drawn = runs[label], folder / label
        # Twenty-four curves read badly: the paper's question is about two methods.
        two = [spec for spec in run["grid"]["samplers"] if spec["label"] in ("regular", "led")]
        draw_all(
            {**run, "paired": [], "alpha": [], "grid": {**run["grid"], "samplers": two}}, drawn
        )
        for name in ("pass_at_n", "exploration"):
            (drawn / f"{name}.png").rename(folder / f"{name}-{label}.png")
        shutil.rmtree(drawn)


def _accuracy(runs: Mapping[str, Mapping[str, Any]]) -> Figure:
    """pass@1 and pass@n against the temperature, a column for each checkpoint."""
    figure = Figure(figsize=(9.5, 6.4), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, sharey="row")
    for column, (label, title) in enumerate(LABELS.items()):
        run = runs[label]
        n, steps = run["grid"]["n"], run["grid"]["temperatures"]
        (cells,) = run["tasks"].values()
        for row, (key, name) in enumerate(
            ((f"pass@1[avg-of-{n}]", "pass@1"), (f"pass@{n}", f"pass@{n}"))
        ):
            axis = axes[row][column]
            for index, spec in enumerate(run["grid"]["samplers"]):
                values = [cells[spec["label"]][f"{t:g}"][key] for t in steps]
                axis.errorbar(
                    # Side by side, or equal numbers would hide each other.
                    [place + 0.05 * (index - 2.5) for place in range(len(steps))],
                    [value["symbolic_correct"] for value in values],
                    [value["standard_error"] for value in values],
                    color=COLOURS[index],
                    marker="o",
                    markersize=4,
                    linewidth=1.3,
                    capsize=2,
                    label=spec["label"] if row == column == 0 else None,
                )
            axis.set_title(f"{name}, {title}", fontsize=10)
            axis.set_xticks(range(len(steps)), [f"{t:g}" for t in steps])
            _plain(axis)
            if row:
                axis.set_xlabel("temperature")
            if not column:
                axis.set_ylabel("% right ± standard error")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def _layers(layers: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Entropy without and with the final norm, and coverage."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    axes = figure.subplots(1, 3)
    panels = (
        ("entropy", "entropy / log V, latents as they are"),
        ("normed_entropy", "entropy / log V, final norm on latents"),
    )
    for axis, (key, title) in zip(axes, panels, strict=False):
        for label, rows in layers.items():
            axis.plot(
                range(1, len(rows) + 1),
                [row[key] for row in rows],
                "o-",
                color=_SHADES[label],
                markersize=4,
                label=LABELS[label],
            )
        axis.set_title(title, fontsize=10)
        axis.set_ylim(bottom=0)
    for label, rows in layers.items():
        for key, style in (("r_1", ":"), ("r_8", "-")):
            axes[2].plot(
                range(1, len(rows) + 1),
                [row[key] for row in rows],
                style,
                color=_SHADES[label],
                marker="o",
                markersize=3,
                label=f"{LABELS[label]}, k = {key[2:]}",
            )
    axes[2].set_title("share of the final top k, as they are", fontsize=10)
    axes[2].set_ylim(0, 1.03)
    for axis in axes:
        axis.set_xlabel("layer")
        axis.legend(frameon=False, fontsize=8)
        _plain(axis)
    return figure


def _plain(axis: Axes) -> None:
    axis.grid(color="#dde2eb", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
