"""Runs a plan, pair by pair; every finished pair is on disk before the next one begins."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from led_sglang.bench import BenchError
from led_sglang.bench.load import LoadGenerator
from led_sglang.bench.numbers import Row, Run, row_of, run_of
from led_sglang.bench.plan import Arm, Pair, Plan
from led_sglang.bench.watch import PeakMemory, ServerView
from led_sglang.common.journal import LineJournal

RUNS = "runs.jsonl"


class Journal:
    """Finished pairs of a benchmark, one JSON line each after a line of its settings.

    Raises:
        BenchError: the folder holds pairs and `resume` is off, or those of other settings.
    """

    def __init__(self, folder: Path, plan: Plan, resume: bool) -> None:
        self._journal = LineJournal(folder / RUNS, BenchError)
        self.pairs: dict[tuple[int, int, str], tuple[Run, Run]] = {}
        lines, path = list(self._journal.lines()), self._journal.path
        if len(lines) < 2:  # no pair is finished: it may start over with other settings
            path.unlink(missing_ok=True)
            self._journal.append(plan.settings())
            return
        if not resume:
            raise BenchError(f"{path} holds finished pairs: add --resume, or name another --out")
        if lines[0].record != json.loads(json.dumps(plan.settings())):
            raise BenchError(f"{path} was measured with other settings: name another --out")
        for line in lines[1:]:
            entry = line.record
            try:
                key = entry["batch_size"], entry["repeat"], entry["arm"]["arm"]
                self.pairs[key] = Run(**entry["baseline"]), Run(**entry["arm"])
            except (KeyError, TypeError) as error:
                raise self._journal.bad_line(line.number, repr(error)) from None

    def add(self, pair: Pair, baseline: Run, arm: Run) -> None:
        """Keep a finished pair.

        Raises:
            BenchError: it cannot be written (disk full); the pairs before it are untouched.
        """
        self._journal.append(
            {
                "batch_size": pair.batch_size,
                "repeat": pair.repeat,
                "baseline": asdict(baseline),
                "arm": asdict(arm),
            }
        )
        self.pairs[pair.key] = baseline, arm

    def rows(self, plan: Plan) -> list[Row]:
        """The table so far, by batch size and arm."""
        rows = []
        for size in plan.batch_sizes:
            for arm in plan.arms:
                found = [p for k, p in self.pairs.items() if (k[0], k[2]) == (size, arm.name)]
                if found:
                    rows.append(row_of(size, found))
        return rows


def run_plan(
    plan: Plan,
    servers: Mapping[str, ServerView],
    load: LoadGenerator,
    journal: Journal,
    after_batch: Callable[[], None],
) -> list[str]:
    """Measure what the journal lacks.

    Args:
        servers: by the names that the arms use.
        after_batch: called when a batch size is through.

    Returns:
        One sentence per batch size that the server has no room for.

    Raises:
        BenchError, ServerError: a run failed; finished pairs are in the journal.
    """
    refused = []
    for size in plan.batch_sizes:
        todo = [pair for pair in plan.pairs(size) if pair.key not in journal.pairs]
        if not todo:
            continue
        names = {arm.server for arm in (plan.baseline, *plan.arms)}
        reasons = [servers[name].too_large(size, plan.tokens(size)) for name in sorted(names)]
        reason = next(filter(None, reasons), None)
        if reason is not None:
            _say(reason)
            refused.append(reason)
            continue
        for arm in (plan.baseline, *plan.arms):
            _say(f"batch {size}: warming up {arm.name}")
            answers(servers[arm.server], load, plan, arm, size, 0)
        for pair in todo:
            runs = {
                arm.name: _run(servers[arm.server], load, plan, arm, size, pair.repeat + 1)
                for arm in plan.order(pair)
            }
            baseline, arm_run = runs[plan.baseline.name], runs[pair.arm.name]
            journal.add(pair, baseline, arm_run)
            ratio = arm_run.tokens_per_s / baseline.tokens_per_s
            _say(
                f"batch {size}, {pair.arm.name}, pair {pair.repeat + 1}/{plan.repeats}: "
                f"{arm_run.tokens_per_s:.1f} of {baseline.tokens_per_s:.1f} tok/s, {ratio:.3f}"
            )
        after_batch()
    return refused


def answers(
    server: ServerView, load: LoadGenerator, plan: Plan, arm: Arm, size: int, seed: int, *more: str
) -> dict[str, Any]:
    """What `bench_serving` says about one run; ServerError where the server is gone."""
    try:
        return load.run(plan, arm, size, seed, server.url, server.model_path(), *more)
    except BenchError:
        server.info()
        raise


def _run(
    server: ServerView, load: LoadGenerator, plan: Plan, arm: Arm, size: int, seed: int
) -> Run:
    """One run and its numbers, with its share of the server's totals and its memory."""
    before = server.led_totals()
    with PeakMemory(server) as memory:
        result = answers(server, load, plan, arm, size, seed)
    return run_of(arm.name, result, before, server.led_totals(), memory.peak_mb)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
