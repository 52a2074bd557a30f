"""The samples of a run in memory, without their texts."""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import product
from typing import Any

from led_sglang.evaluation.code_verdicts import read_verdicts
from led_sglang.evaluation.grid import Grid
from led_sglang.evaluation.report.metrics import pass_at_k
from led_sglang.evaluation.store import RunStore, Stored


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample without its texts. `correct` is None where code has not been executed."""

    stored: Stored
    correct: bool | None
    official: bool | None
    outcome: str
    vote: str | None
    truncated: bool
    tokens: int
    thinking_tokens: int | None
    led: Mapping[str, Any] | None
    digest: bytes
    finished: float | None = None


Cell = tuple[str, str, float]
"""Task, sampler label, temperature."""


@dataclass(frozen=True)
class Results:
    """The samples of a run by cell, then by problem, then by sample index.

    Attributes:
        sessions: the starts of the run.
    """

    grid: Grid
    settings: Mapping[str, Any]
    cells: Mapping[Cell, Mapping[str, Sequence[Sample]]]
    sessions: Sequence[Mapping[str, Any]] = ()

    @property
    def concurrency(self) -> list[int]:
        """The numbers of simultaneous requests the run was made with."""
        return sorted({session["concurrency"] for session in self.sessions})

    @property
    def graders(self) -> list[str]:
        """Versions of the rules that graded its samples."""
        used = self.by_session()
        sessions = self.sessions if used is None else [self.sessions[index] for index in used]
        return sorted({session["grader"] for session in sessions if "grader" in session})

    def by_session(self) -> dict[int, list[Sample]] | None:
        """The samples that each start finished; None for a run of an earlier version."""
        starts = [datetime.fromisoformat(s["started"]).timestamp() for s in self.sessions]
        found: dict[int, list[Sample]] = defaultdict(list)
        for items in self.cells.values():
            for row in (row for rows in items.values() for row in rows):
                index = bisect_right(starts, row.finished or 0.0) - 1
                if index < 0:
                    return None
                found[index].append(row)
        return found

    @property
    def tasks(self) -> list[str]:
        return list(self.settings["tasks"])

    @property
    def expected(self) -> int:
        items = sum(task["items"] for task in self.settings["tasks"].values())
        return items * len(self.grid.samplers) * len(self.grid.temperatures) * self.grid.n

    @property
    def finished(self) -> int:
        return sum(map(self.size, self.cells))

    def items(self, task: str) -> list[str]:
        """The problems of a task that have a sample."""
        cells = (items for cell, items in self.cells.items() if cell[0] == task)
        return sorted(set().union(*cells), key=natural)

    def size(self, cell: Cell) -> int:
        """Number of samples of a cell."""
        return sum(len(rows) for rows in self.cells[cell].values())

    def counts(self, cell: Cell, *, official: bool = False) -> dict[str, tuple[int, int]]:
        """Samples with a verdict and right ones of each problem that has any."""
        found = {}
        for item, rows in self.cells.get(cell, {}).items():
            verdicts = [row.official if official else row.correct for row in rows]
            known = [verdict for verdict in verdicts if verdict is not None]
            if known:
                found[item] = len(known), sum(known)
        return found

    def per_item(self, cell: Cell, k: int, *, official: bool = False) -> dict[str, float]:
        """pass@k of each problem that has at least k verdicts."""
        return {
            item: pass_at_k(samples, correct, k)
            for item, (samples, correct) in self.counts(cell, official=official).items()
            if samples >= k
        }


def natural(text: str) -> list[tuple[int, str]]:
    """Sorts texts as people do: 2 before 10."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part)
        for part in re.split(r"([0-9]+)", text)
        if part
    ]


def read_results(store: RunStore) -> Results:
    """Read a run directory.

    Raises:
        EvaluationError: no run, or a damaged one.
    """
    settings = store.settings()
    verdicts = read_verdicts(store)
    cells: dict[Cell, dict[str, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    for stored in store.samples():
        record = stored.record
        correct, outcome = record["symbolic_correct"], record["outcome"]
        if stored.key in verdicts:
            outcome = verdicts[stored.key]
            correct = outcome == "correct"
        texts = f"{record['reasoning_content']}\0{record['generation']}"
        row = Sample(
            stored=replace(stored, record={}),
            correct=correct,
            official=record["official_correct"],
            outcome=outcome,
            vote=record["vote"],
            truncated=record["truncated"],
            tokens=record["num_generated_tokens"],
            thinking_tokens=record["num_reasoning_tokens"],
            led=record["led"],
            finished=record.get("finished"),
            digest=hashlib.blake2b(texts.encode("utf-8", "replace"), digest_size=12).digest(),
        )
        key = stored.key
        cells[key.task, key.sampler, key.temperature][key.item].append(row)
    grid = Grid.from_json(settings["grid"])
    labels = [sampler.label for sampler in grid.samplers]
    order = list(product(settings["tasks"], labels, grid.temperatures))
    return Results(
        grid=grid,
        settings=settings,
        cells={
            cell: {
                item: sorted(cells[cell][item], key=lambda row: row.stored.key.sample)
                for item in sorted(cells[cell], key=natural)
            }
            for cell in order
            if cell in cells
        },
        sessions=store.sessions(),
    )
