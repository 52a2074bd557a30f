"""Graders against verdicts decided by hand, and gold answers against themselves."""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal

import pytest
import uvloop
from choice_cases import CHOICE, CHOICE_MISREAD
from grader_cases import COMPLETIONS, LIMITS, MATH, TEXT
from math_cases import MISREAD
from math_expressions import EXPRESSIONS
from math_forms import FORMS_OF_ANSWERS
from math_styles import STYLES_OF_ANSWERS

from led_sglang.common.answers import Answerer
from led_sglang.evaluation import EvaluationError
from led_sglang.evaluation.endpoint import Completion
from led_sglang.evaluation.grading.graders import (
    Grade,
    Question,
    grade,
    grade_choice,
    grade_math,
    grade_text,
    official_choice,
)
from led_sglang.evaluation.grading.letters import robust_letter
from led_sglang.evaluation.grading.pool import GradingPool
from led_sglang.evaluation.grading.thinking import Delimiters
from led_sglang.evaluation.items import Item
from led_sglang.evaluation.samples import grade_completion
from led_sglang.evaluation.tasks import Task, load_task


@pytest.mark.parametrize(
    ("gold", "gold_format", "answer", "right"),
    MATH + MISREAD + FORMS_OF_ANSWERS + EXPRESSIONS + STYLES_OF_ANSWERS,
)
def test_math_verdict(gold: str, gold_format: str, answer: str, right: bool) -> None:
    question = Question("math", gold=gold, text=answer, gold_format=gold_format)
    assert grade(question).correct == right


@pytest.mark.parametrize(("gold", "gold_format", "answer", "verdict"), LIMITS)
def test_where_the_grader_disagrees_with_a_person(
    gold: str, gold_format: str, answer: str, verdict: bool
) -> None:
    question = Question("math", gold=gold, text=answer, gold_format=gold_format)
    assert grade(question).correct == verdict


@pytest.mark.parametrize(
    "text",
    ["$ 5 " * 5000, "1 234 " * 5000, "* " * 10000, "\\boxed{" * 3000],
    ids=["dollars", "numbers", "stars", "boxes"],
)
def test_a_long_text_without_an_answer_is_graded_in_time(text: str) -> None:
    started = time.monotonic()
    assert not grade_math(text, "12").correct
    assert time.monotonic() - started < 20  # seconds where it is read as one answer: minutes


@pytest.mark.parametrize("text", [" \n", "*", '"', "((", "A\n"])
def test_a_long_text_without_a_letter_is_read_in_time(text: str) -> None:
    started = time.monotonic()
    robust_letter(text * 20_000)
    assert time.monotonic() - started < 5  # minutes where a pattern tries every place twice


def test_verbatim_math_is_not_tidied() -> None:
    """The authors' numbers come from Math-Verify alone."""
    dressed = Question("math", gold="70000", text="\\boxed{70\\,000}", gold_format="expr")
    assert grade(dressed).correct
    assert not grade(replace(dressed, verbatim=True)).correct


def test_equal_answers_are_one_vote() -> None:
    answers = ["\\boxed{\\frac{1}{2}}", "\\boxed{0.5}", "\\boxed{50\\%}", "$x = \\frac{2}{4}$"]
    votes = {grade_math(answer, "\\frac12").vote for answer in answers}
    assert len(votes) == 1
    assert grade_math("\\boxed{3}", "\\frac12").vote not in votes


@pytest.mark.parametrize(("gold", "answer", "right"), TEXT)
def test_text_verdict(gold: str, answer: str, right: bool) -> None:
    assert grade_text(answer, gold).correct == right


@pytest.mark.parametrize(("content", "finish_reason", "outcome"), COMPLETIONS)
def test_outcome_of_a_whole_completion(content: str, finish_reason: str, outcome: str) -> None:
    async def grade_here(question: Question) -> Grade:
        return grade(question)

    made = Answerer(None)
    completion = Completion(content, None, finish_reason, 9, 9, led=None, answerer=made)
    item = Item("1", "5 + 7?", "12")
    task = Task("sums", "math", (item,), gold="expr")
    verdict = asyncio.run(
        grade_completion(task, item, completion, Delimiters(opened=True), "answer", grade_here)
    )
    assert verdict.outcome == outcome
    assert verdict.truncated == (finish_reason == "length" or "</think>" not in content)


@pytest.mark.parametrize(("gold", "answer", "right"), CHOICE + CHOICE_MISREAD)
def test_choice_verdict(gold: str, answer: str, right: bool) -> None:
    assert grade_choice(answer, answer, gold).correct == right


def test_the_table_is_as_large_as_promised() -> None:
    # The prompt says what is asked for; each case is an answer of its own.
    assert len({*MATH}) + len({*CHOICE}) + len({*COMPLETIONS}) >= 150
    assert len({*MATH}) >= 150


@pytest.mark.parametrize(
    ("answer", "gold", "official"),
    [
        # What the prompt asks for is not read, and an article is taken for an answer.
        ('"answer": "C"', "C", False),
        ("$\\boxed{C}$", "C", False),
        ("A careful look shows it. \\boxed{C}", "A", True),
        ("The final answer is C", "C", True),
    ],
)
def test_official_choice_reads_as_the_authors_do(answer: str, gold: str, official: bool) -> None:
    assert official_choice(answer, gold) == official


TASKS = {"gsm8k": 1319, "math500": 500, "aime24": 30, "aime25": 30}


def _golds(task: str) -> list[str]:
    """The gold answers of a task, each once."""
    loaded = load_task(task)
    assert len(loaded.items) == TASKS[task]
    return sorted({item.expected_answer for item in loaded.items})


@pytest.mark.parametrize("task", TASKS)
def test_gold_is_right_against_itself(task: str) -> None:
    golds = _golds(task)
    wrong = [
        (gold, form)
        for gold in golds
        for form in ("\\boxed{%s}", "$\\boxed{%s}$", "The answer is $%s$.", "%s")
        if not grade_math(form % gold, gold).correct
    ]
    print(f"{task}: {len(golds)} different gold answers, {len(wrong)} wrong against themselves")
    assert wrong == []


def _perturbed(gold: str) -> set[str]:
    """Near misses of a gold: off by one, another sign, a small change, a dropped letter."""
    near = set()
    for number in re.finditer(r"\d+", gold):
        for value in (int(number[0]) + 1, int(number[0]) - 1):
            near.add(f"{gold[: number.start()]}{abs(value)}{gold[number.end() :]}")
    if "text" not in gold:
        near.add(gold.removeprefix("-") if gold.startswith("-") else f"-{gold}")
    if re.fullmatch(r"-?\d*\.?\d+", gold):
        near.update(f"{Decimal(gold) * Decimal(factor):f}" for factor in ("1.0001", "1.0000001"))
        near.update(f"{gold}{letter}" for letter in "htx")
    letters = re.finditer(r"(?<![\\A-Za-z{])[A-Za-z](?![A-Za-z]|\s*=)|\\pi(?![a-z])", gold)
    near.update(gold[: letter.start()] + gold[letter.end() :] for letter in letters)
    return near - {gold}


@pytest.mark.parametrize("task", TASKS)
def test_near_misses_of_a_gold_are_wrong(task: str) -> None:
    golds = [gold for gold in _golds(task) if gold != "0"][:: 10 if task == "gsm8k" else 1]
    pairs = [(gold, miss) for gold in golds for miss in sorted(_perturbed(gold))]
    right = [(gold, miss) for gold, miss in pairs if grade_math(f"\\boxed{{{miss}}}", gold).correct]
    # Units are not compared: the exponent of the inch is no part of the answer.
    assert [pair for pair in right if "mbox" not in pair[0]] == []


@pytest.mark.parametrize("task", TASKS)
def test_the_next_problems_gold_is_wrong(task: str) -> None:
    """The grader can say no to an answer of the right form."""
    loaded = load_task(task, limit=200)
    golds = [item.expected_answer for item in loaded.items]
    pairs = [(a, b) for a, b in itertools.pairwise(golds) if a != b]
    right = [(a, b) for a, b in pairs if grade_math(f"$\\boxed{{{b}}}$", a).correct]
    # In MATH-500 `5` is followed by `x=5`, which says the same.
    assert right == ([("5", "x=5")] if task == "math500" else [])


def _grades(
    questions: Sequence[Question],
    timeout: float,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.SelectorEventLoop,
) -> list[Grade]:
    async def run() -> list[Grade]:
        async with GradingPool(2, timeout) as pool:
            return list(await asyncio.gather(*map(pool.grade, questions)))

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(run())


def test_pool_ends_an_endless_grade_and_goes_on() -> None:
    tower = Question("math", gold="3", text="\\boxed{9^{9^{9^{9^9}}}}")
    fine = Question("math", gold="\\frac{1}{2}", text="\\boxed{0.5}")
    started = time.monotonic()
    grades = _grades([tower, fine, tower, fine, fine], timeout=1.0)
    assert [grade.problem for grade in grades] == ["timeout", "", "timeout", "", ""]
    assert [grade.correct for grade in grades] == [False, True, False, True, True]
    assert time.monotonic() - started < 60  # not a speed test: it must not hang


# Importing SGLang makes uvloop the process's event loop; it words a dead worker's pipe otherwise.
@pytest.mark.parametrize("loop_factory", [asyncio.SelectorEventLoop, uvloop.new_event_loop])
def test_pool_says_when_a_worker_cannot_start(
    monkeypatch: pytest.MonkeyPatch, loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    for _ in range(20):  # it dies before or after it is written to
        with pytest.raises(EvaluationError, match="could not start"):
            _grades([Question("math", gold="1", text="1")], 1.0, loop_factory)
