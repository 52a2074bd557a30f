"""Samplers against each other and along temperature: paired differences, alpha, and verdicts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from led_sglang.common.intervals import Difference, Floats, bootstrap
from led_sglang.evaluation.report.metrics import KS, fit_plane, slope_step, slopes
from led_sglang.evaluation.report.results import Results

# Percentage points: the gain that LED claims. An interval inside of it rules such a gain out.
CLAIM = 1.0
CANNOT_TELL = "cannot tell"


def verdict(difference: float, low: float, high: float, detectable: float) -> str:
    """What a difference and its 95% interval say, in percentage points.

    A run that finds less than it could reliably have seen has found it by luck, if at all: of the
    runs that find anything, those find too much.
    """
    if abs(difference) >= detectable and not low <= 0 <= high:
        return "higher" if low > 0 else "lower"
    most = max(-low, high)
    if most <= CLAIM:
        return f"no difference larger than {math.ceil(10 * most) / 10:.1f}"
    return CANNOT_TELL


def paired(results: Results) -> list[dict[str, Any]]:
    """Every sampler against the first one on the same problems, with 95% intervals."""
    first, *others = (sampler.label for sampler in results.grid.samplers)
    ks, found = compared_ks(results.grid.n), []
    for temperature in results.grid.temperatures:
        by_task = {
            task: columns
            for task in results.tasks
            if (columns := _difference_columns(results, task, first, others, temperature))
            is not None
        }
        groups: dict[str, list[Floats]] = {task: [d] for task, d in by_task.items()}
        if len(by_task) > 1 and len(by_task) == len(results.tasks):
            groups["average"] = list(by_task.values())
        steps = [k / results.grid.n for k in ks] * len(others)
        for task, group in groups.items():
            intervals = iter(bootstrap(group, steps))
            for sampler in others:
                for k in ks:
                    names = {"task": task, "temperature": temperature, "sampler": sampler}
                    numbers = comparison(k, group, next(intervals))
                    found.append({**names, "baseline": first, **numbers})
    return found


def comparison(k: int, group: Sequence[Floats], found: Difference) -> dict[str, Any]:
    """The numbers of an entry: the differences, [items, columns] a task, and their mean."""
    numbers = {
        "difference": 100 * found.mean,
        # No two shares are further apart than 100 points, however few the problems are.
        "low": max(-100.0, 100 * found.low),
        "high": min(100.0, 100 * found.high),
        "detectable": 100 * found.detectable,
    }
    items = sum(map(len, group))
    return {"metric": f"pass@{k}", "items": items, **numbers, "verdict": verdict(**numbers)}


def compared_ks(n: int) -> list[int]:
    return sorted({1, n})


def _difference_columns(
    results: Results, task: str, first: str, others: Sequence[str], temperature: float
) -> Floats | None:
    """[items, samplers x ks] on the problems that every sampler has finished."""
    ks = compared_ks(results.grid.n)
    tables = [
        results.per_item((task, sampler, temperature), k)
        for sampler in (first, *others)
        for k in ks
    ]
    values = _on_shared_items(tables)
    if not others or values is None:
        return None
    baseline = np.tile(values[:, : len(ks)], len(others))
    return np.asarray(values[:, len(ks) :] - baseline)


def _on_shared_items(tables: Sequence[Mapping[str, float]]) -> Floats | None:
    """[items, tables] of the problems that all tables have; None without one."""
    items = sorted(set.intersection(*(set(table) for table in tables)))
    return np.array([[table[item] for table in tables] for item in items]) if items else None


def alphas(results: Results) -> list[dict[str, Any]]:
    """Accuracy-temperature slope of each sampler: a task, and the mean over the tasks."""
    temperatures = sorted(results.grid.temperatures)
    ks = [k for k in KS if k <= results.grid.n]
    if len(temperatures) < 2 or len(ks) < 2:
        return []
    shape = (-1, len(temperatures), len(ks))
    step = 100 * slope_step(len(temperatures), ks, results.grid.n)
    found = []
    for sampler in results.grid.samplers:
        tables: dict[str, Floats] = {}
        for task in results.tasks:
            cells = [(task, sampler.label, t) for t in temperatures]
            values = _on_shared_items([results.per_item(cell, k) for cell in cells for k in ks])
            if values is not None:
                tables[task] = 100 * values.reshape(shape)
        groups = {task: [table] for task, table in tables.items()}
        if len(tables) > 1 and len(tables) == len(results.tasks):
            groups["average"] = list(tables.values())
        for task, group in groups.items():
            accuracy = np.mean([table.mean(axis=0) for table in group], axis=0)
            (interval,) = bootstrap([slopes(table)[:, None] for table in group], [step])
            names = {"sampler": sampler.label, "task": task}
            facts = {"temperatures": temperatures, "ks": ks, "accuracy": accuracy.tolist()}
            ends = {"low": interval.low, "high": interval.high}
            found.append({**names, **asdict(fit_plane(accuracy)), **ends, **facts})
    return found
