"""RESULTS.md and its plots, from the folders that `reproduce.py` has filled."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from led_sglang.evaluation import tables

_PLOTS = ("pass_at_n", "paired", "alpha", "exploration")
_LABELS = {"before": "before RL", "after": "after RL"}


@dataclass(frozen=True)
class Reproduction:
    """Where the runs are, and what was measured outside them.

    Attributes:
        folder: of the runs `before`, `after`, `ablations`, `layers-before`, `layers-after`.
        measured: `measure.measure` of each checkpoint.
        minutes: wall clock of this start of the reproduction.
    """

    folder: Path
    measured: Mapping[str, Mapping[str, Any]]
    minutes: float


def write_results(results: Reproduction, out: Path) -> Path:
    """Write `RESULTS.md` and `plots/` into a folder.

    Returns:
        The path of RESULTS.md.
    """
    runs = {
        name: json.loads((results.folder / name / "metrics.json").read_text(encoding="utf-8"))
        for name in ("before", "after", "ablations")
    }
    layers = {label: _layers(results.folder / f"layers-{label}") for label in _LABELS}
    plots = out / "plots"
    plots.mkdir(exist_ok=True)
    for label in _LABELS:
        for plot in _PLOTS:
            source = results.folder / label / "plots" / f"{plot}.png"
            if source.exists():
                shutil.copy(source, plots / f"{label}-{plot}.png")
    _draw_layers(layers, plots / "layers.png")
    text = "\n".join(
        [
            *_head(results, runs),
            *_collapse(results.measured, layers),
            *_comparison(runs),
            "",
        ]
    )
    path = out / "RESULTS.md"
    path.write_text(text, encoding="utf-8")
    return path


def _head(results: Reproduction, runs: Mapping[str, Any]) -> list[str]:
    finished = sum(run["samples"]["finished"] for run in runs.values())
    expected = sum(run["samples"]["expected"] for run in runs.values())
    problems = results.measured["after"]["problems"]
    return [
        "# Results of the tiny reasoner",
        "",
        "Written by `make reproduce-tiny`; every number is of that run. What they mean is in "
        "[ANALYSIS.md](ANALYSIS.md).",
        "",
        f"{date.today().isoformat()}, CPU, {results.minutes:.0f} minutes in the last start of the "
        f"run; {problems} held-out problems, {finished:,} of {expected:,} samples.",
        "",
    ]


def _collapse(
    measured: Mapping[str, Mapping[str, Any]], layers: Mapping[str, list[dict[str, float]]]
) -> list[str]:
    """Before and after RL: the final layer, then every layer."""
    rows = [
        [
            _LABELS[label],
            f"{100 * m['greedy_accuracy']:.1f} ± {100 * m['greedy_stderr']:.1f}",
            f"{100 * m['chance']:.1f}",
            f"{100 * m['sampled_accuracy']:.1f}",
            f"{m['top1']:.3f}",
            f"{m['entropy']:.3f}",
            f"{m['thought_tokens']:.1f}",
        ]
        for label, m in measured.items()
    ]
    final = tables.Table(
        "Did RL collapse the final posterior?",
        "Greedy and sampled (T = 1, no filter) accuracy in percent, with the standard error over "
        "problems; chance: a random walk over unvisited rooms that never goes back. Top-1 "
        "probability, entropy (nats) and length are means over thought tokens at T = 1.",
        ["checkpoint", "greedy", "chance", "sampled", "top-1", "entropy", "thought tokens"],
        rows,
    )
    by_layer = tables.Table(
        "Entropy and coverage by layer",
        "Over the answers of the `regular` sampler at T = 0.6, no final norm on the latents: "
        "H(p^l) / log V, and the share of the final top 8 in the layer's top 8.",
        [
            "layer",
            *(f"{name}, {label}" for label in _LABELS.values() for name in ("entropy", "r_8")),
        ],
        [
            [
                str(number + 1),
                *(
                    f"{layers[label][number][key]:.3f}"
                    for label in _LABELS
                    for key in ("entropy", "r_8")
                ),
            ]
            for number in range(len(layers["after"]))
        ],
    )
    return [
        tables.markdown(final),
        "",
        tables.markdown(by_layer),
        "",
        "![Entropy and coverage by layer](plots/layers.png)",
        "",
    ]


def _comparison(runs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    parts = []
    for name, title in (
        ("after", "After RL (the default model)"),
        ("before", "Before RL"),
        ("ablations", "Ablations of LED, after RL"),
    ):
        parts += [f"# {title}", ""]
        parts += [part for table in tables.all_tables(runs[name]) for part in _table(table)]
        if name in _LABELS:
            for plot in _PLOTS:
                parts += [f"![{plot}, {_LABELS[name]}](plots/{name}-{plot}.png)", ""]
    return parts


def _table(table: tables.Table) -> list[str]:
    return [tables.markdown(table), ""]


def _layers(folder: Path) -> list[dict[str, float]]:
    """Rows of an analysis' `layers.csv` without the final norm, the first layer first."""
    with (folder / "layers.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["final_norm"] == "False"]
    return [{key: float(row[key]) for key in ("entropy", "r_1", "r_8", "r_16")} for row in rows]


def _draw_layers(layers: Mapping[str, list[dict[str, float]]], path: Path) -> None:
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    entropy, coverage = figure.subplots(1, 2)
    for (label, rows), colour in zip(layers.items(), ("#4c8bd6", "#e07b39"), strict=True):
        numbers = range(1, len(rows) + 1)
        entropy.plot(
            numbers, [r["entropy"] for r in rows], "o-", color=colour, label=_LABELS[label]
        )
        for key, style in (("r_1", ":"), ("r_8", "-")):
            coverage.plot(
                numbers,
                [r[key] for r in rows],
                style,
                color=colour,
                marker="o",
                markersize=3,
                label=f"{_LABELS[label]}, ${key.replace('_', '_{')}}}$",
            )
    entropy.set(xlabel="layer", ylabel="normalised entropy", title="entropy, no final norm")
    coverage.set(xlabel="layer", ylabel="coverage of the final top k", title="coverage")
    for axes in (entropy, coverage):
        axes.set_ylim(0, 1.02)
        axes.legend(frameon=False, fontsize=8)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)
