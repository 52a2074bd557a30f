"""From finished samples to the numbers of `metrics.json`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import product
from typing import Any

import numpy as np

from led_sglang.evaluation.report.cautions import cautions
from led_sglang.evaluation.report.metrics import (
    KS,
    Floats,
    Interval,
    fit_plane,
    majority_at_k,
    paired_bootstrap,
    standard_error,
)
from led_sglang.evaluation.report.results import Cell, Results, Sample


def summarize(results: Results) -> dict[str, Any]:
    """All numbers of a run, in percent where they are shares; the content of `metrics.json`."""
    grid = results.grid
    tasks: dict[str, Any] = {}
    for task, sampler, temperature in product(results.tasks, grid.samplers, grid.temperatures):
        cell = (task, sampler.label, temperature)
        if cell in results.cells:
            by_temperature = tasks.setdefault(task, {}).setdefault(sampler.label, {})
            by_temperature[f"{temperature:g}"] = cell_metrics(results, cell)
    return {
        "complete": results.finished == results.expected,
        "samples": {"finished": results.finished, "expected": results.expected},
        "tasks": tasks,
        "alpha": alphas(results),
        "paired": paired(results),
        "warnings": cautions(results, tasks),
        "concurrency": list(results.concurrency),
        "grid": asdict(grid),
    }


def usable_ks(n: int) -> list[int]:
    """k of the curves of a run with n samples, n itself included."""
    return sorted({*(k for k in KS if k <= n), n})


def cell_metrics(results: Results, cell: Cell) -> dict[str, Any]:
    """Metrics of one task, sampler and temperature."""
    items = results.cells[cell]
    rows = [row for group in items.values() for row in group]
    graded = [row for row in rows if row.correct is not None]
    n, kind = results.grid.n, results.settings["tasks"][cell[0]]["kind"]
    first = results.per_item(cell, 1)
    outcomes = Counter(row.outcome for row in rows)
    metrics: dict[str, Any] = {
        "num_entries": len(items),
        "num_samples": len(rows),
        f"pass@1[avg-of-{n}]": {
            **_correct(list(first.values())),
            **{
                name: _percent(outcomes[name], len(rows))
                for name in ("no_answer", "timeout", "error", "ungraded")
            },
            "truncated": _percent(sum(row.truncated for row in rows), len(rows)),
            **_lengths(rows),
        },
    }
    for k in usable_ks(n):
        metrics[f"pass@{k}"] = _correct(list(results.per_item(cell, k).values()))
        if kind != "code":  # programs are not voted on
            metrics[f"majority@{k}"] = _correct(_majorities(items, k))
    if any(row.official is not None for row in rows):
        for k in usable_ks(n):
            official = results.per_item(cell, k, official=True)
            metrics[f"pass@{k}"]["official_correct"] = _mean_percent(list(official.values()))
    metrics["outcomes"] = dict(sorted(outcomes.items()))
    metrics["graded_samples"] = len(graded)
    distinct = sum(len({row.digest for row in group}) for group in items.values())
    metrics["duplicate_completions"] = len(rows) - distinct
    metrics["led"] = _exploration(rows)
    return metrics


def alphas(results: Results) -> list[dict[str, Any]]:
    """Accuracy-temperature slope of each sampler: a task, and the mean over the tasks."""
    temperatures = sorted(results.grid.temperatures)
    ks = [k for k in KS if k <= results.grid.n]
    if len(temperatures) < 2 or len(ks) < 2:
        return []
    found = []
    for sampler in results.grid.samplers:
        tables = {}
        for task in results.tasks:
            table = accuracy_table(results, task, sampler.label, temperatures, ks)
            if not np.isnan(table).any():
                tables[task] = table
        if len(tables) > 1 and len(tables) == len(results.tasks):
            tables["average"] = np.mean(list(tables.values()), axis=0)
        for task, table in tables.items():
            facts = {"temperatures": temperatures, "ks": ks, "accuracy": table.tolist()}
            found.append(
                {"sampler": sampler.label, "task": task, **asdict(fit_plane(table)), **facts}
            )
    return found


def accuracy_table(
    results: Results, task: str, sampler: str, temperatures: Sequence[float], ks: Sequence[int]
) -> Floats:
    """pass@k in percent, [temperatures, ks]; NaN where there are no verdicts."""
    return np.array(
        [
            [_mean_percent(list(results.per_item((task, sampler, t), k).values())) for k in ks]
            for t in temperatures
        ],
        dtype=float,
    )


def paired(results: Results) -> list[dict[str, Any]]:
    """Every sampler against the first one on the same problems, with 95% intervals."""
    first, *others = (sampler.label for sampler in results.grid.samplers)
    found = []
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
        for task, group in groups.items():
            intervals = iter(paired_bootstrap(group))
            for sampler in others:
                for k in compared_ks(results.grid.n):
                    names = {"task": task, "temperature": temperature, "sampler": sampler}
                    found.append(
                        {**names, "baseline": first, **comparison(k, group, next(intervals))}
                    )
    return found


def comparison(k: int, group: Sequence[Floats], interval: Interval) -> dict[str, Any]:
    """The numbers of an entry: the differences, [items, columns] a task, and their mean."""
    return {
        "metric": f"pass@{k}",
        "items": sum(map(len, group)),
        "difference": 100 * interval.mean,
        "low": 100 * interval.low,
        "high": 100 * interval.high,
    }


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
    items = sorted(set.intersection(*(set(table) for table in tables)))
    if not others or not items:
        return None
    values = np.array([[table[item] for table in tables] for item in items])
    baseline = np.tile(values[:, : len(ks)], len(others))
    return np.asarray(values[:, len(ks) :] - baseline)


def _majorities(items: Mapping[str, Sequence[Sample]], k: int) -> list[float]:
    return [
        majority_at_k([row.vote for row in rows], [bool(row.correct) for row in rows], k)
        for rows in items.values()
        if len(rows) >= k
    ]


def _correct(per_item: Sequence[float]) -> dict[str, float | None]:
    error = standard_error(np.array(per_item))
    return {
        "symbolic_correct": _nullable(_mean_percent(per_item)),
        "standard_error": _nullable(100 * error),
    }


def _lengths(rows: Sequence[Sample]) -> dict[str, float | None]:
    thinking = [row.thinking_tokens for row in rows if row.thinking_tokens is not None]
    return {
        "avg_tokens": float(np.mean([row.tokens for row in rows])),
        "avg_thinking_tokens": float(np.mean(thinking)) if thinking else None,
    }


def _exploration(rows: Sequence[Sample]) -> dict[str, Any] | None:
    """Sums of the server's statistics over the samples that carry them; no other sampler does."""
    reports = [row.led for row in rows if row.led and "explored_tokens" in row.led]
    thought = sum(report["think_tokens"] for report in reports)
    if not thought:
        return None
    depths: Counter[str] = Counter()
    for report in reports:
        depths.update(report["depth_histogram"])
    explored = sum(report["explored_tokens"] for report in reports)
    p1 = sum((report["mean_p1"] or 0.0) * report["think_tokens"] for report in reports)
    return {
        "think_tokens": thought,
        "explored_tokens": explored,
        "explored_share": explored / thought,
        "mean_p1": p1 / thought,
        "depth_histogram": {depth: depths[depth] for depth in sorted(depths, key=int)},
    }


def _percent(count: int, total: int) -> float:
    return 100 * count / total if total else 0.0


def _mean_percent(values: Sequence[float]) -> float:
    return 100 * float(np.mean(values)) if len(values) else math.nan


def _nullable(value: float) -> float | None:
    return None if math.isnan(value) else value
