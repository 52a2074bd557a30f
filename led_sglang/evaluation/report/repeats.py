"""Completions that repeat another one of the same problem: a sure model's, or copies?

Equal texts say nothing: a model that is sure of every token writes the same text from any seed.
What a server that ignores the seeds repeats is the draws. LED reports counts of them; the draws of
other methods leave no trace but the text, and LED's posteriors of the same problems can tell that
such a text is too uncertain to come twice.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from led_sglang.evaluation.report.results import Cell, Results, Sample

# Gates of LED that draw; the others do the same for the same text.
_RANDOM_GATES = ("confidence", "rate")
# Repeats whose draws would be equal by chance as often as this tell nothing.
_TELLING_CHANCE = 0.5
# That many of the telling repeats have equal draws where seeds are ignored ...
_COPIED_SHARE = 0.9
# ... which chance alone does less often than this.
_LUCK = 1e-3
# Expected number of tokens that are not the likeliest one, above which no text comes twice.
_UNSURE_TOKENS = 10.0


def copies(results: Results, cell: Cell) -> int:
    """Samples of a cell above temperature 0 that repeat another's draws, as far as can be told."""
    groups = [group for rows in results.cells[cell].values() for group in _alike(rows)]
    if groups and all("explored_tokens" in (row.led or {}) for group in groups for row in group):
        sampler = next(spec for spec in results.grid.samplers if spec.label == cell[1])
        draws = sampler.params.get("gate", "confidence") in _RANDOM_GATES
        return _repeats(groups) if draws and _same_draws(groups) else 0
    unsure = _unsure_tokens(results, cell)
    return _repeats(
        [group for group in groups if unsure.get(group[0].stored.key.item, 0) >= _UNSURE_TOKENS]
    )


def nothing_differs(results: Results, cell: Cell) -> bool:
    """Whether all samples of each problem of a cell are alike, and no LED sample can tell why."""
    several = [rows for rows in results.cells[cell].values() if len(rows) > 1]
    return (
        len(several) > 1
        and all([rows] == _alike(rows) for rows in several)
        and not _unsure_tokens(results, cell)
    )


def _alike(rows: Sequence[Sample]) -> list[list[Sample]]:
    """Those of a problem's samples that share text and length, where more than one does."""
    groups: dict[tuple[bytes, int], list[Sample]] = defaultdict(list)
    for row in rows:
        groups[row.digest, row.tokens].append(row)
    return [group for group in groups.values() if len(group) > 1]


def _repeats(groups: Sequence[Sequence[Sample]]) -> int:
    return sum(len(group) - 1 for group in groups)


def _same_draws(groups: Sequence[Sequence[Sample]]) -> bool:
    """Whether samples of the same text explored as often and as deep, against all chance."""
    telling = equal = 0
    log_luck = 0.0
    for group in groups:
        draws = [_draws(row) for row in group]
        chance = _chance_of_equal_counts(float(np.mean([explored for explored, _ in draws])))
        if chance >= _TELLING_CHANCE:
            continue
        same = sum(one == other for one, other in pairwise(draws))
        telling += len(group) - 1
        equal += same
        log_luck += same * math.log(chance)
    return equal >= _COPIED_SHARE * telling and log_luck < math.log(_LUCK)


def _draws(row: Sample) -> tuple[int, tuple[tuple[str, int], ...]]:
    report: Mapping[str, Any] = row.led or {}
    return report["explored_tokens"], tuple(sorted(report["depth_histogram"].items()))


def _chance_of_equal_counts(mean: float) -> float:
    """Chance that two Poisson counts of this mean are equal: exp(-2 mean) I0(2 mean)."""
    if mean > 100.0:  # the Bessel function would overflow
        return 1.0 / math.sqrt(4.0 * math.pi * mean)
    return math.exp(-2.0 * mean) * float(np.i0(2.0 * mean))


def _unsure_tokens(results: Results, cell: Cell) -> dict[str, float]:
    """By problem, how many think tokens LED expected not to be the likeliest one.

    Of the LED samples of the same task and temperature; empty where there are none.
    """
    task, _, temperature = cell
    expected: dict[str, list[float]] = defaultdict(list)
    for other, items in results.cells.items():
        if (other[0], other[2]) != (task, temperature):
            continue
        for item, rows in items.items():
            for row in rows:
                if row.led and row.led.get("mean_p1") is not None:
                    expected[item].append((1.0 - row.led["mean_p1"]) * row.led["think_tokens"])
    return {item: float(np.mean(values)) for item, values in expected.items()}
