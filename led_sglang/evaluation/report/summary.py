"""From finished samples to the numbers of `metrics.json`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import product
from typing import Any

import numpy as np

from led_sglang.common.intervals import (
    Interval,
    bayes_at_n,
    mean_of,
    ratio_bounds,
    share_interval,
)
from led_sglang.evaluation.report.cautions import cautions
from led_sglang.evaluation.report.comparisons import alphas, paired
from led_sglang.evaluation.report.metrics import KS, majority_at_k, standard_error
from led_sglang.evaluation.report.results import Cell, Results, Sample

Metrics = dict[str, Any]


def summarize(results: Results) -> Metrics:
    """All numbers of a run, in percent where they are shares; the content of `metrics.json`."""
    grid = results.grid
    tasks: Metrics = {}
    for task, sampler, temperature in product(results.tasks, grid.samplers, grid.temperatures):
        cell = (task, sampler.label, temperature)
        if cell in results.cells:
            by_temperature = tasks.setdefault(task, {}).setdefault(sampler.label, {})
            by_temperature[f"{temperature:g}"] = cell_metrics(results, cell)
    return {
        "complete": results.finished == results.expected,
        "samples": {"finished": results.finished, "expected": results.expected},
        "tasks": tasks,
        "average": _averages(results, tasks),
        "alpha": alphas(results),
        "paired": paired(results),
        "warnings": cautions(results, tasks),
        "concurrency": results.concurrency,
        "grid": asdict(grid),
    }


def usable_ks(n: int) -> list[int]:
    """k of the curves of a run with n samples, n itself included."""
    return sorted({*(k for k in KS if k <= n), n})


def cell_metrics(results: Results, cell: Cell) -> Metrics:
    """Metrics of one task, sampler and temperature."""
    items = results.cells[cell]
    rows = [row for group in items.values() for row in group]
    graded = [row for row in rows if row.correct is not None]
    n, kind = results.grid.n, results.settings["tasks"][cell[0]]["kind"]
    counts = results.counts(cell)
    outcomes = Counter(row.outcome for row in rows)
    metrics: Metrics = {
        "num_entries": len(items),
        "num_samples": len(rows),
        f"pass@1[avg-of-{n}]": {
            **_correct(list(results.per_item(cell, 1).values()), 1 / n),
            **{
                name: _percent(outcomes[name], len(rows))
                for name in ("no_answer", "timeout", "error", "ungraded")
            },
            "truncated": _percent(sum(row.truncated for row in rows), len(rows)),
            **_lengths(items),
        },
        f"bayes@{n}": _shown(
            bayes_at_n([c for _, c in counts.values()], [m for m, _ in counts.values()])
            if counts
            else None
        ),
    }
    for k in usable_ks(n):
        metrics[f"pass@{k}"] = _correct(list(results.per_item(cell, k).values()), k / n)
        if kind != "code":  # programs are not voted on
            metrics[f"majority@{k}"] = _correct(_majorities(items, k), 1.0)
    if any(row.official is not None for row in rows):
        for k in usable_ks(n):
            official = results.per_item(cell, k, official=True)
            metrics[f"pass@{k}"]["official_correct"] = _mean_percent(list(official.values()))
    whole = [correct for samples, correct in counts.values() if samples == n]
    metrics["cover@tau"] = {
        f"{least / n:g}": _correct([float(correct >= least) for correct in whole], 1.0)
        for least in range(1, n + 1)
    }
    metrics["outcomes"] = dict(sorted(outcomes.items()))
    metrics["graded_samples"] = len(graded)
    distinct = sum(len({row.digest for row in group}) for group in items.values())
    metrics["duplicate_completions"] = len(rows) - distinct
    metrics["distinct_answers"] = _distinct(items, lambda row: row.vote)
    metrics["distinct_first_explorations"] = _distinct(
        items, lambda row: (row.led or {}).get("first_explored")
    )
    metrics["led"] = _exploration(items)
    return metrics


def _averages(results: Results, tasks: Metrics) -> Metrics:
    """By sampler and temperature the means over the tasks, where every task has a number."""
    n = results.grid.n
    found: Metrics = {}
    for sampler, temperature in product(results.grid.samplers, results.grid.temperatures):
        cells = [
            tasks.get(task, {}).get(sampler.label, {}).get(f"{temperature:g}")
            for task in results.tasks
        ]
        if len(cells) > 1 and all(cells):
            names = [f"pass@1[avg-of-{n}]", f"bayes@{n}", *(f"pass@{k}" for k in usable_ks(n))]
            means = {name: _mean_entry([cell[name] for cell in cells]) for name in names}
            by_temperature = found.setdefault(sampler.label, {})
            everything = {
                (task, item): rows
                for task in results.tasks
                for item, rows in results.cells[task, sampler.label, temperature].items()
            }
            by_temperature[f"{temperature:g}"] = {
                **{name: mean for name, mean in means.items() if mean},
                "led": _exploration(everything),
            }
    return found


def _mean_entry(entries: Sequence[Mapping[str, Any]]) -> Metrics:
    """The mean of entries as `_shown` makes them; empty where one has no number."""
    if any(entry["symbolic_correct"] is None for entry in entries):
        return {}
    parts = [Interval(entry["symbolic_correct"], *entry["interval"]) for entry in entries]
    mean = mean_of(parts)
    return {"symbolic_correct": mean.mean, "interval": [mean.low, mean.high]}


def _majorities(items: Mapping[str, Sequence[Sample]], k: int) -> list[float]:
    return [
        majority_at_k([row.vote for row in rows], [bool(row.correct) for row in rows], k)
        for rows in items.values()
        if len(rows) >= k
    ]


def _correct(per_item: Sequence[float], step: float) -> Metrics:
    """The mean with its errors; `step` as in `intervals`."""
    values = np.array(per_item)
    error = standard_error(values)
    return {
        **_shown(share_interval(values, step) if per_item else None),
        "standard_error": None if math.isnan(error) else 100 * error,
    }


def _shown(found: Interval | None) -> Metrics:
    """A share in percent and its 95% interval."""
    if found is None:
        return {"symbolic_correct": None, "interval": None}
    ends = [100 * found.low, 100 * found.high]
    return {"symbolic_correct": 100 * found.mean, "interval": ends}


def _lengths(items: Mapping[str, Sequence[Sample]]) -> Metrics:
    rows = [row for group in items.values() for row in group]
    thinking = [row.thinking_tokens for row in rows if row.thinking_tokens is not None]
    return {
        "avg_tokens": float(np.mean([row.tokens for row in rows])),
        "avg_tokens_interval": _ends(
            [[sum(row.tokens for row in group), len(group)] for group in items.values()]
        ),
        "avg_thinking_tokens": float(np.mean(thinking)) if thinking else None,
    }


def _distinct(
    items: Mapping[str, Sequence[Sample]], value: Callable[[Sample], Any]
) -> float | None:
    """Mean number of different values over the samples of a problem; None where there is none."""
    found = [{value(row) for row in rows} - {None} for rows in items.values()]
    return float(np.mean([len(values) for values in found])) if any(found) else None


def _ends(sums: Sequence[Sequence[float]]) -> list[float] | None:
    """Ends of the interval of a ratio, None without; `sums`: [problems, 2], both of its parts."""
    _, low, high = ratio_bounds(*np.array(sums, dtype=float).T)
    return None if np.isnan(low) else [float(low), float(high)]


def _exploration(items: Mapping[Any, Sequence[Sample]]) -> Metrics | None:
    """Sums of the server's statistics over the samples that carry them; no other sampler does."""
    groups = [
        [row.led for row in rows if row.led and "explored_tokens" in row.led]
        for rows in items.values()
    ]
    reports = [report for group in groups for report in group]
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
        "explored_interval": _ends(
            [
                [
                    sum(report[key] for report in group)
                    for key in ("explored_tokens", "think_tokens")
                ]
                for group in groups
                if group
            ]
        ),
        "mean_p1": p1 / thought,
        "depth_histogram": {depth: depths[depth] for depth in sorted(depths, key=int)},
    }


def _percent(count: int, total: int) -> float:
    return 100 * count / total if total else 0.0


def _mean_percent(values: Sequence[float]) -> float | None:
    return 100 * float(np.mean(values)) if len(values) else None
