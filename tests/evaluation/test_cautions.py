"""What keeps a run from settling anything is said, in a sentence each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from led_sglang.evaluation.grid import make_grid
from led_sglang.evaluation.report.results import Results, Sample, natural
from led_sglang.evaluation.report.summary import summarize
from led_sglang.evaluation.report.tables import accuracy, differences
from led_sglang.evaluation.store import Key, Stored


def results_of(
    verdicts: Sequence[bool | Sequence[bool]],
    samplers: Sequence[str] = ("regular", "led"),
    graders: Sequence[str] = ("led-sglang 1",),
    finished: Sequence[str] = ("regular", "led"),
) -> Results:
    """A run with a problem for each verdict, one for each of its samples or one that all share.

    Each of `graders` graded one sample of each problem, the last one the rest.
    """
    samples = max((len(v) for v in verdicts if isinstance(v, Sequence)), default=2)
    cells = {}
    for sampler in (name for name in samplers if name in finished):
        items = {}
        for item, verdict in enumerate(verdicts):
            rows = []
            for sample in range(samples):
                correct = verdict[sample] if isinstance(verdict, Sequence) else verdict
                key = Key("gsm8k", sampler, 0.6, str(item), sample)
                row = Sample(
                    stored=Stored(key, {}, "", 0, 0),
                    correct=correct,
                    official=None,
                    outcome="correct" if correct else "wrong",
                    vote="1",
                    truncated=False,
                    tokens=10,
                    thinking_tokens=5,
                    led={"think_tokens": 5, "explored_tokens": sample, "depth_histogram": {},
                         "mean_p1": 0.5, "first_explored": sample or None}
                    if sampler == "led" else None,
                    digest=bytes([item, sample]),
                    finished=3600.0 * min(sample, len(graders) - 1) + 1,
                )  # fmt: skip
                rows.append(row)
            items[str(item)] = rows
        cells["gsm8k", sampler, 0.6] = items
    grid = make_grid({"tasks": ["gsm8k"], "samplers": list(samplers), "n": samples}, "x")
    tasks = {"gsm8k": {"items": len(verdicts), "kind": "math"}}
    settings = {"server": {"version": "0.5.23"}, "tasks": tasks}
    sessions = [
        {"started": f"1970-01-01T{hour:02}:00:00+00:00", "concurrency": 1, "grader": grader}
        for hour, grader in enumerate(graders)
    ]
    return Results(grid=grid, settings=settings, cells=cells, sessions=sessions)


MIXED = (True, False, True, False)


def test_nothing_is_said_of_an_ordinary_run() -> None:
    assert summarize(results_of(MIXED))["warnings"] == []


@pytest.mark.parametrize(
    ("results", "words"),
    [
        (results_of(MIXED, samplers=["led"]), ["one sampler, led", "no baseline", "--samplers"]),
        (results_of((True, False)[:1], finished=["regular", "led"]), ["one problem only (gsm8k)"]),
        (results_of((True,) * 4), ["Every sample is right (gsm8k)", "too easy"]),
        (results_of((False,) * 4), ["Every sample is wrong (gsm8k)", "too hard"]),
        (results_of(MIXED, graders=["a 1", "b 2"]), ["different versions (a 1; b 2)"]),
        (results_of(MIXED, finished=["led"]), ["baseline regular has no finished", "--resume"]),
    ],
)
def test_what_settles_nothing_is_one_sentence(results: Results, words: list[str]) -> None:
    metrics = summarize(results)
    (sentence,) = [line for line in metrics["warnings"] if words[0] in line]
    assert all(word in sentence for word in words)
    assert "\n" not in sentence
    # And no number claims more than there is.
    for entry in metrics["paired"]:
        assert entry["high"] > entry["low"]
        assert entry["verdict"] == "cannot tell"


def test_distinct_answers_and_first_explorations_are_counted_by_problem() -> None:
    cell = summarize(results_of(MIXED))["tasks"]["gsm8k"]["led"]["0.6"]
    assert cell["distinct_answers"] == 1.0
    # Of two samples one explored, first at token 1.
    assert cell["distinct_first_explorations"] == 1.0


def test_a_run_of_one_sample_shows_no_number_twice() -> None:
    table = accuracy(summarize(results_of([[True], [False]])))
    assert table.heads == ["task", "sampler", "T", "pass@1", "Bayes@1"]
    assert {len(row) for row in table.rows} == {5}
    assert "samples" not in table.note
    two = accuracy(summarize(results_of([[True, True], [False, True]])))
    assert two.heads[3:] == ["pass@1", "Bayes@2", "pass@2"]
    assert two.rows[0][3].startswith("75.0 (")
    assert two.rows[0][5].startswith("100.0 (")


def test_differences_end_at_a_hundred_points() -> None:
    """Three problems that all agree tell nothing, and shares cannot differ by more."""
    metrics = summarize(results_of([[True], [True], [True]]))
    (row,) = differences(metrics).rows
    assert row[4:8] == ["+0.0", "-100.0 .. +100.0", "> 100", "cannot tell"]


def test_problems_stand_in_natural_order() -> None:
    assert results_of([True] * 12).items("gsm8k") == [str(number) for number in range(12)]
    names = ["b-1", "a-10", "a-2", "a-2b", "a", "10", "9"]
    assert sorted(names, key=natural) == ["a", "a-2", "a-2b", "a-10", "b-1", "9", "10"]


def test_a_grader_that_judged_nothing_mixes_nothing() -> None:
    """A start that found the run finished, after an upgrade."""
    results = results_of(MIXED, graders=["a 1", "b 2", "c 3"])
    assert results.graders == ["a 1", "b 2"]


@pytest.mark.parametrize("samples", [3, 8])
def test_cover_at_tau_is_what_counting_gives(samples: int) -> None:
    drawn = np.random.default_rng(0).random((20, samples)) < np.linspace(0, 1, 20)[:, None]
    results = results_of([[bool(v) for v in row] for row in drawn])
    cover = summarize(results)["tasks"]["gsm8k"]["led"]["0.6"]["cover@tau"]
    assert len(cover) == samples
    for index, entry in enumerate(cover.values(), start=1):
        counted = [sum(row) >= index for row in drawn.tolist()]
        assert entry["symbolic_correct"] == pytest.approx(100 * sum(counted) / 20)


def test_cover_at_tau_counts_problems_by_their_share_of_right_samples() -> None:
    cover = summarize(results_of(MIXED))["tasks"]["gsm8k"]["led"]["0.6"]["cover@tau"]
    assert {tau: entry["symbolic_correct"] for tau, entry in cover.items()} == {"0.5": 50, "1": 50}
