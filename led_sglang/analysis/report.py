"""What an analysis leaves in its folder: a table, two figures, a summary."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Mapping
from math import isnan
from pathlib import Path
from typing import Any

from led_sglang._version import __version__
from led_sglang.analysis.figures import draw
from led_sglang.analysis.statistics import (
    COVERAGE_SIZES,
    UNCERTAIN_P1,
    VARIANTS,
    LayerTable,
    Recommendation,
    recommend,
)

TABLE = "layers.csv"
SUMMARY = "summary.json"


def write_report(
    tables: Mapping[str, LayerTable],
    folder: Path,
    threshold: float,
    facts: Mapping[str, Any],
    *,
    log: bool = False,
) -> Recommendation:
    """Write `layers.csv`, `entropy.png`, `coverage.png` and `summary.json`.

    Args:
        tables: by group of tokens.
        facts: about the run (model, temperature, prompts), kept in the summary.
        log: logarithmic y axes.

    Returns:
        What the tables recommend.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    found, everything = recommend(tables, threshold), tables["all"]
    _write_csv(tables, folder / TABLE)
    draw(tables, folder, found, facts, log=log)
    summary = {
        **facts,
        "led_sglang": __version__,
        "tokens": everything.tokens,
        "tokens_by_group": {name: table.tokens for name, table in tables.items()},
        "uncertain_p1": UNCERTAIN_P1,
        "layers": everything.layers,
        "vocabulary": everything.vocab,
        "recommended_depth": found.depth,
        "covering_depth": found.covering,
        "recommended_from": found.group,
        "recommendation": found.sentence,
        "coverage_threshold": threshold,
        "least_coverage": found.least,
    }
    (folder / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return found


def _write_csv(tables: Mapping[str, LayerTable], path: Path) -> None:
    """One row a group, layer and variant; `depth` counts from the final layer, which is 1."""
    values = ["entropy", *(f"r_{k}" for k in COVERAGE_SIZES)]
    ends = [f"{name}_{end}" for name in values for end in ("low", "high")]
    heads = ["tokens", "layer", "depth", "final_norm", *values, *ends]
    with path.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(heads)
        for group, table in tables.items():
            for layer, variant in itertools.product(range(table.layers), range(len(VARIANTS))):
                row = [table.entropy[variant, layer], *table.coverage[variant, layer]]
                bands: list[Any] = [""] * len(ends)
                if table.entropy_band is not None and table.coverage_band is not None:
                    entropy = table.entropy_band[:, variant, layer]
                    pairs = [entropy, *table.coverage_band[:, variant, layer].T]
                    bands = ["" if isnan(end) else float(end) for pair in pairs for end in pair]
                names = (group, layer + 1, table.layers - layer, bool(variant))
                writer.writerow([*names, *map(float, row), *bands])
