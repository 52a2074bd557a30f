"""Results of runs that never were, by the verdicts of their samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

from led_sglang.evaluation.grid import make_grid
from led_sglang.evaluation.report.results import Results, Sample
from led_sglang.evaluation.store import Key, Stored


def results_of(
    verdicts: Sequence[bool | Sequence[bool]],
    samplers: Sequence[str] = ("regular", "led"),
    graders: Sequence[str] = ("led-sglang 1",),
    finished: Sequence[str] | None = None,
    *,
    tasks: Sequence[str] = ("gsm8k",),
    temperatures: Sequence[float] = (0.6,),
    tokens: Callable[[int], int] = lambda item: 10,
) -> Results:
    """A run with a problem for each verdict, one for each of its samples or one that all share.

    Each of `graders` graded one sample of each problem, the last one the rest.

    Args:
        samplers: their labels; those that begin with `led` report what they explored.
        finished: those that have samples, by default all.
        tasks: each with these problems.
        tokens: of a sample, half of them thinking, by the number of its problem.
    """
    samples = max((len(v) for v in verdicts if isinstance(v, Sequence)), default=2)

    def row(task: str, sampler: str, temperature: float, item: int, sample: int) -> Sample:
        verdict = verdicts[item]
        correct = verdict[sample] if isinstance(verdict, Sequence) else verdict
        led = {
            "think_tokens": tokens(item) // 2,
            "explored_tokens": sample,
            "depth_histogram": {},
            "mean_p1": 0.5,
            "first_explored": sample or None,
        }
        return Sample(
            stored=Stored(Key(task, sampler, temperature, str(item), sample), {}, "", 0, 0),
            correct=correct,
            official=None,
            outcome="correct" if correct else "wrong",
            vote="1",
            truncated=False,
            tokens=tokens(item),
            thinking_tokens=tokens(item) // 2,
            led=led if sampler.startswith("led") else None,
            digest=bytes([item, sample]),
            finished=3600.0 * min(sample, len(graders) - 1) + 1,
        )

    cells = {
        (*cell, temperature): {
            str(item): [row(*cell, temperature, item, sample) for sample in range(samples)]
            for item in range(len(verdicts))
        }
        for *cell, temperature in product(tasks, finished or samplers, temperatures)
    }
    specs = [{"name": label.partition("-")[0], "label": label} for label in samplers]
    grid = make_grid(
        {"tasks": tasks, "samplers": specs, "temperatures": temperatures, "n": samples}, "x"
    )
    settings = {
        "server": {"version": "0.5.23"},
        "tasks": {task: {"items": len(verdicts), "kind": "math"} for task in tasks},
    }
    sessions = [
        {"started": f"1970-01-01T{hour:02}:00:00+00:00", "concurrency": 1, "grader": grader}
        for hour, grader in enumerate(graders)
    ]
    return Results(grid=grid, settings=settings, cells=cells, sessions=sessions)
