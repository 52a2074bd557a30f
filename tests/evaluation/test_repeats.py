"""Repeated completions: a sure model's are left alone, copies by a server are named."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from eval_harness import engine, led_eval, running, small_grid

from led_sglang.evaluation.grid import make_grid
from led_sglang.evaluation.report.cautions import cautions
from led_sglang.evaluation.report.repeats import copies, nothing_differs
from led_sglang.evaluation.report.results import Results, Sample
from led_sglang.evaluation.store import Key, Stored

ITEMS, SAMPLES = 8, 16
Report = Callable[[random.Random], dict[str, Any] | None]


def led(mean: float, think_tokens: int = 400, p1: float = 0.99) -> Report:
    """LED's report of a sample: each of 40 uncertain tokens explores by chance, `mean` in all."""

    def report(draw: random.Random) -> dict[str, Any]:
        depths = [draw.choice("2345678") for _ in range(40) if draw.random() < mean / 40]
        return {
            "think_tokens": think_tokens,
            "explored_tokens": len(depths),
            "depth_histogram": dict(sorted(Counter(depths).items())),
            "mean_p1": p1,
        }

    return report


def none(draw: random.Random) -> None:
    return None


def results_of(
    reports: dict[str, Report],
    *,
    texts: int = 1,
    copied: bool = False,
    seed: int = 0,
    samplers: list[Any] | None = None,
) -> Results:
    """A run in which each problem has `texts` different completions, drawn anew or `copied`."""
    cells = {}
    for sampler, report in reports.items():
        items = {}
        for item in range(ITEMS):
            rows = []
            for sample in range(SAMPLES):
                draw = random.Random(f"{seed} {sampler} {item} {0 if copied else sample}")
                key = Key("gsm8k", sampler, 0.6, str(item), sample)
                row = Sample(
                    stored=Stored(key, {}, "", 0, 0),
                    correct=item % 2 == 0,
                    official=None,
                    outcome="correct" if item % 2 == 0 else "wrong",
                    vote="1",
                    truncated=False,
                    tokens=500,
                    thinking_tokens=400,
                    led=report(draw),
                    digest=b"%d %d" % (item, sample % texts),
                )
                rows.append(row)
            items[str(item)] = rows
        cells["gsm8k", sampler, 0.6] = items
    grid = make_grid({"tasks": ["gsm8k"], "samplers": samplers or list(reports), "n": SAMPLES}, "x")
    tasks = {"gsm8k": {"items": ITEMS, "kind": "math"}}
    settings = {"server": {"version": "0.5.23"}, "tasks": tasks}
    return Results(grid=grid, settings=settings, cells=cells)


LED, REGULAR = ("gsm8k", "led", 0.6), ("gsm8k", "regular", 0.6)


@pytest.mark.parametrize("mean", [0.0, 0.1, 0.5, 1.0, 3.0, 10.0])
@pytest.mark.parametrize("texts", [1, 4])
def test_a_sure_model_is_no_copyist(mean: float, texts: int) -> None:
    for seed in range(20):
        results = results_of({"led": led(mean)}, texts=texts, seed=seed)
        assert copies(results, LED) == 0


@pytest.mark.parametrize("mean", [2.0, 3.0, 10.0, 30.0])
def test_equal_draws_are_copies(mean: float) -> None:
    for seed in range(20):
        results = results_of({"led": led(mean)}, copied=True, seed=seed)
        assert copies(results, LED) == ITEMS * (SAMPLES - 1)


def test_where_nothing_was_drawn_nothing_is_said() -> None:
    assert copies(results_of({"led": led(0.0)}, copied=True), LED) == 0


@pytest.mark.parametrize("gate", ["always", "never", "entropy"])
def test_a_gate_that_does_not_draw_tells_nothing(gate: str) -> None:
    sampler = {"name": "led", "params": {"gate": gate}}
    results = results_of({"led": led(10.0)}, copied=True, samplers=[sampler])
    assert copies(results, LED) == 0


@pytest.mark.parametrize(("p1", "named"), [(0.9999, False), (0.9, True)])
def test_other_methods_are_judged_by_leds_posteriors_of_the_same_problems(
    p1: float, named: bool
) -> None:
    """400 tokens of which 0.04, or 40, are expected not to be the likeliest: one text, or many."""
    results = results_of({"regular": none, "led": led(1.0, p1=p1)})
    assert copies(results, REGULAR) == (ITEMS * (SAMPLES - 1) if named else 0)
    assert not nothing_differs(results, REGULAR)


def test_without_led_only_that_nothing_differs_is_said() -> None:
    results = results_of({"regular": none})
    assert copies(results, REGULAR) == 0
    assert nothing_differs(results, REGULAR)
    assert not nothing_differs(results_of({"regular": none}, texts=8), REGULAR)


def test_each_problem_of_the_numbers_is_one_sentence() -> None:
    cell = {"pass@1[avg-of-16]": {"truncated": 0, "ungraded": 0, "avg_thinking_tokens": 1.0}}
    results = results_of({"regular": none, "led": led(9.0, p1=0.9)}, copied=True)
    tasks = {"gsm8k": {"regular": {"0.6": cell}, "led": {"0.6": cell}}}
    (sentence,) = cautions(results, tasks)
    assert "(94% of gsm8k, regular, T = 0.6 and 1 more)" in sentence
    assert "Does the server use the seeds?" in sentence


def test_a_sure_model_is_not_told_about_seeds(tmp_path: Path) -> None:
    with running(engine(sure=True)) as url:
        done = led_eval(*small_grid(url, tmp_path, tasks=["aime24"]))
    assert done.returncode == 0, done.stderr
    assert "word for word" not in done.stderr
    assert "seeds" not in done.stderr
