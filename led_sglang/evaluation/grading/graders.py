"""Is an answer right? Pure functions; `worker.py` puts a clock around them.

Math-Verify parses both sides and compares them symbolically. Its own timeouts (SIGALRM) are off
here: the worker process that runs these functions has a wall-clock bound instead.
"""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from led_sglang.evaluation.grading.letters import robust_letter

PythonGrader = Callable[[Mapping[str, Any], str], tuple[bool, str | None]]
"""A user's `grade(item, answer)`: the line of the JSONL file and the answer part; the verdict and
the answer that was read, None where there is none."""


@dataclass(frozen=True)
class Grade:
    """Verdict on one answer.

    Attributes:
        correct: the verdict that counts.
        predicted: the answer as the model wrote it; None where none was found.
        vote: a normal form of it, by which answers are counted for majority@k.
        official: GPQA only, the verdict of Math-Verify's string extraction.
        problem: why there is no verdict ("timeout", "error"); empty if there is one.
    """

    correct: bool
    predicted: str | None
    vote: str | None = None
    official: bool | None = None
    problem: str = ""


@dataclass(frozen=True)
class Question:
    """What a grader needs: the texts to grade and the gold answer.

    Attributes:
        kind: "math", "choice", "text" or "python".
        gold: the expected answer.
        text: the text in scope: the answer part, or the whole completion.
        answer: the answer part.
        gold_format: "expr" or "latex", for math.
        verbatim: give math to Math-Verify as it is, as the authors do.
        grader: file with the function `grade`, for python.
        row: the item's line of the JSONL file, for python.
    """

    kind: str
    gold: str
    text: str
    answer: str = field(default="")
    gold_format: str = "latex"
    verbatim: bool = False
    grader: str = ""
    row: Mapping[str, Any] = field(default_factory=dict)


def grade(question: Question) -> Grade:
    """Grade one answer."""
    if question.kind == "math":
        if question.verbatim:
            return grade_verbatim(question.text, question.gold, question.gold_format)
        return grade_math(question.text, question.gold)
    if question.kind == "choice":
        return grade_choice(question.answer, question.text, question.gold)
    if question.kind == "text":
        return grade_text(question.text, question.gold)
    correct, predicted = python_grader(question.grader)(question.row, question.text)
    return Grade(correct=bool(correct), predicted=predicted, vote=predicted)


def grade_math(text: str, gold: str) -> Grade:
    """Math: the last box, else what is stated as the answer, else the last mathematics.

    Args:
        text: of the model.
        gold: LaTeX without dollar signs, or a plain number.
    """
    # SymPy takes a second to import, and only the workers grade.
    from led_sglang.evaluation.grading import math_grader

    expected = math_grader.read_gold(gold)
    answers = math_grader.find_answers(text, expected)
    if not answers:
        return Grade(correct=False, predicted=None)
    for answer in answers:
        if math_grader.is_right(answer, expected):
            # 1/2 and 0.5 are one answer. What is equal to the gold is equal to each other.
            return Grade(correct=True, predicted=answer, vote=gold)
    return Grade(correct=False, predicted=answers[0], vote=math_grader.normal_form(answers[0]))


def grade_verbatim(text: str, gold: str, gold_format: str) -> Grade:
    """Math-Verify: boxed LaTeX first, then other LaTeX, then a bare expression; no parse = wrong.

    Args:
        text: of the model.
        gold: "expr": a plain number; "latex": LaTeX without dollar signs.
        gold_format: one of the two.
    """
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    is_plain = gold_format == "expr"
    expected = parse(
        gold if is_plain else f"${gold}$",
        extraction_config=[ExprExtractionConfig() if is_plain else LatexExtractionConfig()],
        parsing_timeout=None,
    )
    predicted = parse(
        text,
        extraction_config=[LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()],
        extraction_mode="first_match",
        parsing_timeout=None,
    )
    if not predicted:
        return Grade(correct=False, predicted=None)
    texts = [value for value in predicted if isinstance(value, str)]
    correct = bool(verify(expected, predicted, timeout_seconds=None))
    return Grade(
        correct=correct,
        predicted=texts[-1] if texts else str(predicted[0]),
        # 1/2 and 0.5 are one answer. What is equal to the gold is equal to each other.
        vote=gold if correct else str(predicted[0]),
    )


def grade_choice(answer: str, text: str, gold: str) -> Grade:
    """A letter, by the `robust` reading of the answer part and the `official` one of the scope."""
    letter = robust_letter(answer)
    return Grade(
        correct=letter == gold, predicted=letter, vote=letter, official=official_choice(text, gold)
    )


def official_choice(text: str, gold: str) -> bool:
    """As the authors grade: Math-Verify's string extraction, defaults throughout."""
    from math_verify import StringExtractionConfig, parse, verify

    config = [StringExtractionConfig()]
    expected = parse(gold, extraction_config=config, parsing_timeout=None)
    predicted = parse(text, extraction_config=config, parsing_timeout=None)
    return bool(predicted) and bool(verify(expected, predicted, timeout_seconds=None))


_MARKED_ANSWER = re.compile(r"\\boxed\s*\{([^{}]*)\}|<answer>(.*?)</answer>", re.DOTALL)


def grade_text(text: str, gold: str) -> Grade:
    """The same text: the last \\boxed{} or <answer></answer>, else the last line.

    Case, white space and a final full stop do not count.
    """
    predicted = stated_answer(text)
    if predicted is None:
        return Grade(correct=False, predicted=None)
    vote = _normal(predicted)
    return Grade(correct=vote == _normal(gold), predicted=predicted, vote=vote)


def stated_answer(text: str) -> str | None:
    """The last \\boxed{} or <answer></answer>, else the last line; None where there is neither."""
    marked = _MARKED_ANSWER.findall(text)
    lines = [line for line in text.split("\n") if line.strip()]
    if not marked and not lines:
        return None
    return ("".join(marked[-1]) if marked else lines[-1]).strip()


def _normal(text: str) -> str:
    return " ".join(text.split()).rstrip(".").casefold()


@cache
def python_grader(path: str) -> PythonGrader:
    """The function `grade` of a Python file.

    Raises:
        ValueError: it has none.
        Exception: whatever the file itself raises.
    """
    function: PythonGrader | None = runpy.run_path(path).get("grade")
    if not callable(function):
        raise ValueError("it defines no function grade(item, answer)")
    return function
