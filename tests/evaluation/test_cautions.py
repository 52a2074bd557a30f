"""What keeps a run from settling anything is said, in a sentence each."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from made_results import results_of

from led_sglang.evaluation.report.results import Results, natural
from led_sglang.evaluation.report.summary import summarize
from led_sglang.evaluation.report.tables import accuracy, differences

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


def test_problems_that_say_nothing_of_their_scatter_get_no_interval() -> None:
    """One alone, and such as are all alike: no interval of width zero, and no number that is none,
    which JSON does not know."""
    for results in (results_of([True]), results_of(MIXED)):
        metrics = summarize(results)
        cell = metrics["tasks"]["gsm8k"]["led"]["0.6"]
        assert cell["pass@1[avg-of-2]"]["avg_tokens_interval"] is None
        assert cell["led"]["explored_interval"] is None
        json.dumps(metrics, allow_nan=False)
    apart = summarize(results_of(MIXED, tokens=lambda item: 10 + 2 * item))
    cell = apart["tasks"]["gsm8k"]["led"]["0.6"]
    for value, (low, high) in (
        (cell["pass@1[avg-of-2]"]["avg_tokens"], cell["pass@1[avg-of-2]"]["avg_tokens_interval"]),
        (cell["led"]["explored_share"], cell["led"]["explored_interval"]),
    ):
        assert low < value < high


def test_a_k_that_no_problem_has_official_verdicts_for_has_no_number() -> None:
    results = results_of(MIXED)
    cells = {
        cell: {item: [replace(rows[0], official=True), *rows[1:]] for item, rows in items.items()}
        for cell, items in results.cells.items()
    }
    metrics = summarize(replace(results, cells=cells))
    cell = metrics["tasks"]["gsm8k"]["led"]["0.6"]
    assert cell["pass@1"]["official_correct"] == 100.0
    assert cell["pass@2"]["official_correct"] is None
    json.dumps(metrics, allow_nan=False)


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
