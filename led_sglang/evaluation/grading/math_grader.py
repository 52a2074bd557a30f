"""Is a mathematical answer right? Math-Verify parses and compares; what it misreads is done here.

Left to itself it takes letters for units, rounds at six decimals and revives an earlier box. So the
answer is found in `answers.py`, made plain in `tidy.py` and compared exactly in `equality.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from latex2sympy2_extended import NormalizationConfig
from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse
from math_verify.grader import get_pct_val

from led_sglang.evaluation.grading.answers import (
    boxed_answers,
    stated_answer,
    tagged_answer,
    tidy_prose,
)
from led_sglang.evaluation.grading.equality import exact, is_number, joined_ranges, same
from led_sglang.evaluation.grading.tidy import Tidied, both_signs, same_words, tidy

_BASES = (
    "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
)
_BASE_WORDS = {word: str(base) for base, word in enumerate(_BASES.split(), start=2)}
_BASED = re.compile(
    r"(-?)(?:\\text\{|[({])?([0-9A-F]+)[)}]?"
    r"(?=\s*(?:_|\\text|[\s(]*(?:in\s)?\s*base\b))"
    rf"(?:\\text\{{|[_(){{}}\s]|in\b|base)*(\d+|{'|'.join(_BASE_WORDS)})[\s)}}]*"
)
# 1321 \equiv 321 \pmod{1000}
_MODULUS = re.compile(
    r"(?:[\s,~]|\\[,;:! ]|\\q?quad(?![a-z]))*"
    r"(?:\\(?:pmod|bmod|mod)(?![a-z])|\(?\s*(?:\\text\{\s*\(?)?mod\b).*$",
    re.DOTALL,
)
_DECIMAL_COMMA = re.compile(r"(-?\d+),(\d+)")
_SEVERAL = re.compile(r",|;|\\pm|\b(?:and|or)\b")
_AND_OR = re.compile(r"\b(?:and|or)\b")
_LETTER = re.compile(r"(?<![\\A-Za-z])[A-Za-z]")
# A longer text is prose, not an answer; reading it as one would take long.
_LONGEST_ANSWER = 1000
_LABEL = re.compile(r"^(?:[#=\s]+|[A-Z][a-z]*:\s)+")
_LETTERS = re.compile(r"[A-Za-z]+|[A-Za-z](?:,\s*[A-Za-z])+")


@dataclass(frozen=True)
class Gold:
    """A gold answer, read once.

    Attributes:
        text: as it is in the data.
        tidied: as Math-Verify reads it.
        several: it has more than one part: a list, a point, a set.
        lone_letters: it has no letters, so that the `m` of `6 m` is a unit.
    """

    text: str
    tidied: Tidied
    several: bool
    lone_letters: bool


@cache
def read_gold(text: str) -> Gold:
    """Read a gold answer: LaTeX without dollar signs, or a plain number."""
    tidied = tidy(text)
    return Gold(
        text=text,
        tidied=tidied,
        several=bool(_SEVERAL.search(tidied.latex)),
        lone_letters=not _LETTER.search(tidied.latex),
    )


def find_answers(text: str, gold: Gold) -> list[str]:
    """What may be the answer of a text, the likeliest first; nothing where it has none.

    Boxes side by side are one answer where the gold has several parts; otherwise the last counts.
    """
    boxes = boxed_answers(text)
    if boxes is None:
        return []
    if boxes:
        joined = [", ".join(boxes[-1])] if gold.several and len(boxes[-1]) > 1 else []
        return [*joined, boxes[-1][-1]]
    tagged = tagged_answer(text)
    if tagged is not None and len(tagged) <= _LONGEST_ANSWER and not tidy(tagged).worded:
        return [tagged]
    return _answers_in_prose(text if tagged is None else tagged, gold)


def _answers_in_prose(text: str, gold: Gold) -> list[str]:
    stated = stated_answer(text) or _LABEL.sub("", text.strip())
    if len(stated) <= _LONGEST_ANSWER and (
        gold.tidied.worded or ("\n" not in stated and tidy(stated).bare)
    ):
        return [stated] if stated else []
    found = _parse(tidy_prose(text), plain=True)
    if not found:
        return []
    located = str(found[-1])
    is_percentage = "%" not in located and get_pct_val(found[0]) is not None
    return [f"{located}\\%" if is_percentage else located]


def is_right(answer: str, gold: Gold) -> bool:
    """Does the answer say what the gold says?"""
    if len(answer) > _LONGEST_ANSWER:
        return False
    letters = _LETTERS.fullmatch(gold.tidied.latex)
    if (gold.tidied.worded or letters) and same_words(gold.text, answer):
        return True
    if gold.tidied.worded and not letters:
        return False
    if "mod" not in gold.text:
        answer = _MODULUS.sub("", answer).replace("\\equiv", "=")
    tidied = tidy(answer, gold.lone_letters)
    readings = [tidied.latex]
    if not gold.several and (comma := _DECIMAL_COMMA.fullmatch(tidied.latex)):
        readings.append(f"{comma[1]}.{comma[2]}")
    return any(_is_equal(gold, reading, tidied.percent) for reading in readings)


def _is_equal(gold: Gold, reading: str, percent: bool) -> bool:
    if based := _BASED.fullmatch(gold.tidied.latex):
        sides = [side.strip() for side in reading.split("=")]
        answers = [_in_base(side) for side in map(_BASED.fullmatch, sides) if side]
        return _in_base(based) in answers or (not answers and sides[-1] == based[1] + based[2])
    expected, value = value_of(gold.tidied.latex), value_of(reading)
    words = set(_AND_OR.findall(reading))
    if len(words) == 1:
        value = joined_ranges(value, alternatives="or" in words)
    if expected is None or value is None:
        return False
    if percent == gold.tidied.percent or not is_number(expected) or not is_number(value):
        return same(expected, value)
    if gold.tidied.percent:
        return same(expected, value) or same(exact(expected) / 100, value)
    # 150% says 150 where the question asks for per cent; below 1 it is a probability.
    return same(expected, exact(value) / 100) or (
        abs(exact(expected)) >= 1 and same(expected, value)
    )


def normal_form(answer: str) -> str:
    """One text for all ways to write an answer, for votes."""
    if len(answer) > _LONGEST_ANSWER:
        return answer
    tidied = tidy(answer)
    value = value_of(tidied.latex)
    return f"{tidied.latex if value is None else exact(value)}{'%' if tidied.percent else ''}"


def _in_base(match: re.Match[str]) -> tuple[str, int]:
    return match[1] + match[2].lstrip("0"), int(_BASE_WORDS.get(match[3], match[3]))


@lru_cache(maxsize=64)
def value_of(latex: str) -> Any:
    """The value of tidied LaTeX: a SymPy object, the text itself where it cannot be parsed, None
    where it is empty."""
    if not latex:
        return None
    found = _parse(f"${latex}$", plain=False)
    if found and isinstance(found[0], str) and "\\pm" in latex:
        found = _parse(f"${both_signs(latex)}$", plain=False)
    return found[0] if found else None


def _parse(text: str, plain: bool) -> list[Any]:
    """Math-Verify's reading of a text: the value and what was read.

    Args:
        plain: take a number without LaTeX too.
    """
    # Its own list of units has letters and words that are none.
    latex = LatexExtractionConfig(
        boxed_match_priority=0,
        normalization_config=NormalizationConfig(
            basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="last"
        ),
    )
    configs = [latex, ExprExtractionConfig()] if plain else [latex]
    values: list[Any] = parse(
        text, extraction_config=configs, extraction_mode="first_match", parsing_timeout=None
    )
    return values
