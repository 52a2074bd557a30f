"""`--compare A B`: paired difference of two finished runs on the same problems."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from led_sglang.common.intervals import Floats, bootstrap
from led_sglang.evaluation import EvaluationError
from led_sglang.evaluation.report.comparisons import compared_ks, comparison
from led_sglang.evaluation.report.results import Cell, Results, read_results
from led_sglang.evaluation.report.tables import Table, difference_table
from led_sglang.evaluation.store import RunStore


def compare(first: Path, second: Path) -> Table:
    """Second minus first run, for each task and temperature they share.

    Samplers of the same label are compared with each other; where the runs share none and each has
    one, those two are.

    Raises:
        EvaluationError: a run is unfinished, or the two do not fit together; says why.
    """
    runs = [read_results(RunStore(folder)) for folder in (first, second)]
    for folder, run in zip((first, second), runs, strict=True):
        if run.finished < run.expected:
            raise EvaluationError(
                f"{folder} is not finished ({run.finished:,} of {run.expected:,} samples): "
                "continue it with --resume first"
            )
    ours, theirs = runs
    if ours.grid.n != theirs.grid.n:
        raise EvaluationError(f"n differs: {ours.grid.n} and {theirs.grid.n}")
    tasks = [task for task in ours.tasks if task in theirs.tasks]
    temperatures = [t for t in ours.grid.temperatures if t in theirs.grid.temperatures]
    if not tasks or not temperatures:
        raise EvaluationError("the runs share no task or no temperature")
    for task in tasks:
        first_prompts, second_prompts = (run.settings["tasks"][task]["prompts"] for run in runs)
        if first_prompts != second_prompts:
            raise EvaluationError(f"task {task}: the runs used different problems or prompts")
    rows = []
    for old, new in _pairs(ours, theirs):
        for temperature in temperatures:
            for k in compared_ks(ours.grid.n):
                columns = [
                    _difference(ours, (task, old, temperature), theirs, (task, new, temperature), k)
                    for task in tasks
                ]
                named = [(task, [c]) for task, c in zip(tasks, columns, strict=True)]
                if len(tasks) > 1:
                    named.append(("average", columns))
                for task, group in named:
                    (interval,) = bootstrap(group, [k / ours.grid.n])
                    names = {"task": task, "temperature": temperature, "sampler": new}
                    rows.append({**names, "baseline": old, **comparison(k, group, interval)})
    graders = sorted({*ours.graders, *theirs.graders})
    note = ""
    if len(graders) > 1:
        note = (
            f"The runs were graded by different versions ({'; '.join(graders)}), whose verdicts "
            "may differ: make both with one version for numbers that settle something."
        )
    return difference_table(rows, f"{second} minus {first}", note)


def _pairs(ours: Results, theirs: Results) -> list[tuple[str, str]]:
    old, new = ([sampler.label for sampler in run.grid.samplers] for run in (ours, theirs))
    shared = [(label, label) for label in old if label in new]
    if shared:
        return shared
    if len(old) == len(new) == 1:
        return [(old[0], new[0])]
    raise EvaluationError(
        f"the runs share no sampler ({', '.join(old)} and {', '.join(new)}) and have more than one"
    )


def _difference(ours: Results, old: Cell, theirs: Results, new: Cell, k: int) -> Floats:
    """[items, 1]."""
    before, after = ours.per_item(old, k), theirs.per_item(new, k)
    items = sorted(before.keys() & after.keys())
    if not items:
        raise EvaluationError(f"task {old[0]}: no verdicts to compare (code not executed?)")
    return np.array([[after[item] - before[item]] for item in items])
