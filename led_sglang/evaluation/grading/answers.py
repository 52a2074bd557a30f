"""Where in a text the answer stands: its last box, its tag, or after "the answer is"."""

from __future__ import annotations

import re

from led_sglang.evaluation.grading.symbols import DASH, PLAIN
from led_sglang.evaluation.grading.tidy import MIXED_NUMBER, SCIENTIFIC, ungrouped

_BOX = re.compile(r"\\f?box(?:ed)?\s*(?=\{)|\\boxed\s*(?=[\d-])")
_ANSWER_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
# What may stand between boxes that together are one answer: $\boxed{3}$ or $x = \boxed{5}$.
_BETWEEN = re.compile(
    r"(?:[\s$,;&]|\\[()\[\],;:!]|\\q?quad|\\(?:text|mbox)\{[^{}]*\}"
    r"|\b(?:and|or)\b|[A-Za-z]\w?(?:_\{?\w+\}?)?\s*=)*"
)
_PROSE_BETWEEN = re.compile(r"[^.!?\n]{0,70}\b(?:and|or)\b[^.!?\n]{0,70}")
_CORRECTION = re.compile(
    r"\b(?:but|not|wait|no|wrong|however|actually|instead|rather|correct\w*|mistake)\b",
    re.IGNORECASE,
)
_AFTER_ANSWER = re.compile(
    r"\"answer\"\s*:\s*\"([^\"\n]+)\""
    r"|\banswer\b[*_]*\s*(?:is|was|would be|:|=)[\s*_:]*([^\n]+)|\bsolution is[\s:]*([^\n]+)",
    re.IGNORECASE,
)


def boxed_answers(text: str) -> list[list[str]] | None:
    """The boxes of a text in groups; the boxes of a group are parts of one answer.

    Args:
        text: an answer part.

    Returns:
        the contents, without empty boxes; None where the last box is never closed: it was cut off,
        and no earlier box is its answer.
    """
    groups: list[list[str]] = []
    end = position = 0
    while match := _BOX.search(text, position):
        position = match.end()
        if text[position] == "{":
            close = _closing_brace(text, position)
            if close is None:
                return None
            content, position = text[position + 1 : close], close + 1
        else:  # \boxed 5
            number = re.match(r"-?\d[\d.,]*", text[position:])
            content = number[0].rstrip(".,") if number else ""
            position += len(content)
        content = _unbox(content).strip()
        if not content:  # it says how to answer
            continue
        content += "\\%" if re.match(r"[\s$]*\\?%", text[position:]) else ""
        if not (groups and _are_parts(text[end : match.start()])):
            groups.append([content])
        elif content not in groups[-1]:
            groups[-1].append(content)
        end = position
    return groups


def _are_parts(between: str) -> bool:
    if _BETWEEN.fullmatch(between):
        return True
    return bool(_PROSE_BETWEEN.fullmatch(between)) and not _CORRECTION.search(between)


def _closing_brace(text: str, opening: int) -> int | None:
    """Position of the brace that closes the one at `opening`; escaped braces are none."""
    depth = 0
    for match in re.finditer(r"\\.|[{}]", text[opening:], re.DOTALL):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return opening + match.start()
    return None


def _unbox(content: str) -> str:
    """The content of a box without the boxes in it."""
    while match := _BOX.search(content):
        opening = match.end()
        close = _closing_brace(content, opening) if content[opening] == "{" else None
        if close is None:
            return content[: match.start()] + content[opening:]
        content = content[: match.start()] + content[opening + 1 : close] + content[close + 1 :]
    return content


def tagged_answer(text: str) -> str | None:
    """The content of the last <answer></answer>, if there is one."""
    tags = _ANSWER_TAG.findall(text)
    return str(tags[-1]).strip() if tags and tags[-1].strip() else None


def stated_answer(text: str) -> str | None:
    """What follows the last "the answer is", up to the end of its sentence."""
    stated = [match[1] or match[2] or match[3] for match in _AFTER_ANSWER.finditer(text)]
    if not stated:
        return None
    sentence = re.split(r"(?<![ap]\.m)(?<!\b[ap])\.(?:\s|$)", stated[-1].strip(), maxsplit=1)[0]
    return sentence.strip(" *_`$\"'")


# As in Pandoc: no space inside the dollars, no digit after them; all other dollars are money.
_MATHEMATICS = re.compile(
    r"(\$\$.+?\$\$|(?<![\\\d])\$(?:\S|\S[^$\n]*?[^\s\\$]|\s[^$\n]+\s)\$(?!\d)|\\\(.+?\\\)|\\\[.+?\\\])",
    re.DOTALL,
)
_MARKUP = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?<![\w*])\*\*\*(?=[^\s*])([^\n]+?)(?<=[^\s*])\*\*\*(?![\w*])",
        r"(?<![\w*])\*\*(?=[^\s*])([^\n]+?)(?<=[^\s*])\*\*(?![\w*])",
        r"(?<![\w*\\)}])\*(?=[^\s*])([^*\n]+?)(?<=[^\s*])\*(?![\w*\\(])",
        r"(?<![\w_\\}])__(?=[^\s_{])([^_\n]+?)(?<=[^\s_])__(?![\w_])",
        r"(?<!`)`([^`\n]+)`(?!`)",
    )
)


def tidy_prose(text: str) -> str:
    """A text without a box as Math-Verify reads it best; its mathematics stays as it is.

    Args:
        text: an answer of a model.
    """
    text = re.sub(rf"(?<![\w}}]){DASH}(?=\d)", "-", text.translate(PLAIN))
    for markup in _MARKUP:  # also around mathematics
        text = markup.sub(r"\1", text)
    parts = _MATHEMATICS.split(text)
    parts[::2] = [_tidy_words(part) for part in parts[::2]]
    return "".join(parts)


def _tidy_words(text: str) -> str:
    text = re.sub(r"\\?\$|[£€¥](?=\s?\d)|(?<=\d)\s?[£€¥]|</?answer>", " ", text)
    text = MIXED_NUMBER.sub(r"$\1\\frac{\2}{\3}$", ungrouped(text))
    return SCIENTIFIC.sub(r"$\1\\times 10^{\2}$", text)
