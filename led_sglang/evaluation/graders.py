"""Is an answer right? Pure functions; math needs `grading_worker.py` around it for the clock.

Math-Verify parses both sides and compares them symbolically. Its own timeouts (SIGALRM) are off
here: the worker process that runs these functions has a wall-clock bound instead.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Any


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

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Question:
    """What a grader needs: the texts to grade and the gold answer.

    Attributes:
        kind: "math" or "choice".
        gold: the expected answer.
        gold_format: "expr" or "latex", for math.
        text: the text in scope: the answer part, or the whole completion.
        answer: the answer part.
    """

    kind: str
    gold: str
    text: str
    answer: str = field(default="")
    gold_format: str = "latex"


def grade(question: Question) -> Grade:
    """Grade one answer."""
    if question.kind == "math":
        return grade_math(question.text, question.gold, question.gold_format)
    return grade_choice(question.answer, question.text, question.gold)


def grade_math(text: str, gold: str, gold_format: str) -> Grade:
    """Math-Verify: boxed LaTeX first, then other LaTeX, then a bare expression; no parse = wrong.

    Args:
        text: of the model.
        gold: "expr": a plain number; "latex": LaTeX without dollar signs.
        gold_format: one of the two.
    """
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    if gold_format == "expr":
        expected = parse(gold, extraction_config=[ExprExtractionConfig()], parsing_timeout=None)
    else:
        expected = parse(
            f"${gold}$", extraction_config=[LatexExtractionConfig()], parsing_timeout=None
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
    return Grade(
        correct=bool(verify(expected, predicted, timeout_seconds=None)),
        predicted=texts[-1] if texts else str(predicted[0]),
        vote=str(predicted[0]),
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


_LETTER = r"[(\[{]*(?:\\(?:text|textbf|mathrm|mathbf)\s*\{)?[(\[{*]*([A-J])(?![A-Za-z])"
# Each is tried on the whole answer, the last match of the first one that matches counts.
_LETTER_PATTERNS = tuple(
    re.compile(pattern)
    for pattern in (
        # "answer": "C", also with other quotes, bold, or none
        r"(?i:[\"'*]*answer[\"'*]*)\s*[:=]\s*[\"'*$]*(?:\\boxed\s*\{\s*)?[\"'*$]*" + _LETTER,
        r"\\boxed\s*\{\s*" + _LETTER,
        # the (correct, best, right, final) answer is (C); option C is correct
        r"(?i:(?:answer|choice|option)\s*(?:is|would be|must be))[\s:*$\"']*(?i:option\s+)?"
        + _LETTER,
        r"(?i:option|choice|answer)\s+\**\(?([A-J])\)?\**\s+(?i:is\s+(?:the\s+)?(?:correct|right|best))",
        # the last letter that stands alone; "A" before a word is an article, "I" a pronoun
        r"(?<![\w'’\\])\(?(A(?!\)?\s+[a-z])|[B-HJ])(?![\w'’]|\s*[=+^_])",
    )
)


def robust_letter(answer: str) -> str | None:
    """The letter that an answer settles on, or None."""
    for pattern in _LETTER_PATTERNS:
        letters = pattern.findall(answer)
        if letters:
            return str(letters[-1])
    return None


_FENCE = re.compile(r"```[ \t]*(?:python3?|py)[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)


def last_python_fence(answer: str) -> str:
    """The code of the last python fence; empty if there is none."""
    fences = _FENCE.findall(answer)
    return str(fences[-1]) if fences else ""
