"""Code tasks after generation: the official checker's file, and verdicts of local execution."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from led_sglang.evaluation.grading.code_execution import judge
from led_sglang.evaluation.store import Key, RunStore, write_atomically
from led_sglang.evaluation.tasks import Task

_FILE = "code_verdicts.jsonl"


def read_verdicts(store: RunStore) -> dict[Key, str]:
    """Verdicts so far, by sample."""
    journal = store.journal(_FILE)
    verdicts = {}
    for line in journal.lines():
        try:
            verdicts[Key(**line.record["key"])] = str(line.record["verdict"])
        except (KeyError, TypeError) as error:
            raise journal.bad_line(line.number, repr(error)) from None
    return verdicts


def execute(store: RunStore, tasks: Sequence[Task], *, seconds: float) -> None:
    """Judge every program of code tasks that has no verdict yet, one at a time; resumable.

    Raises:
        EvaluationError: programs cannot be confined on this machine, or the disk is full.
    """
    done = read_verdicts(store)
    tests = {(task.name, item.id): item.tests for task in tasks for item in task.items}
    for stored in store.samples():
        key = stored.key
        if key in done or (key.task, key.item) not in tests:
            continue
        code, verdict = stored.record["predicted_answer"], stored.record["outcome"]
        if code:
            verdict = judge(code, tests[key.task, key.item], seconds=seconds)
        store.journal(_FILE).append({"key": asdict(key), "verdict": verdict})


def export(store: RunStore, task: Task) -> list[Path]:
    """Write `[{question_id, code_list}]` for the official LiveCodeBench checker.

    One file for each sampler and temperature. Every problem of the task is in it, as the checker
    demands; one without samples has an empty list.
    """
    programs: dict[tuple[str, float], dict[str, list[str]]] = defaultdict(
        lambda: {item.id: [] for item in task.items}
    )
    for stored in store.samples():
        if stored.key.task == task.name:
            cell = programs[stored.key.sampler, stored.key.temperature]
            cell[stored.key.item].append(stored.record["predicted_answer"] or "")
    written = []
    for (sampler, temperature), by_item in sorted(programs.items()):
        path = store.folder / "export" / f"{task.name}-{sampler}-T{temperature:g}.json"
        entries = [{"question_id": item, "code_list": code} for item, code in by_item.items()]
        write_atomically(path, json.dumps(entries))
        written.append(path)
    return written
