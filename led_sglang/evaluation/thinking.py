"""Where the thinking of a completion ends and its answer begins."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Delimiters:
    """Texts around the thinking, and whether the chat template has already opened it.

    Where it has, a completion without the end delimiter is thought from its first to its last
    token; where it has not, only one that opens thinking itself is. None: the server could not
    tell, and a completion that was cut off counts as thought.
    """

    start: str = "<think>"
    end: str = "</think>"
    opened: bool | None = None


@dataclass(frozen=True)
class Parts:
    """A completion taken apart; `closed` is false where thinking never ended."""

    reasoning: str
    answer: str
    closed: bool


def split_thinking(
    content: str, reasoning: str | None, finish_reason: str, delimiters: Delimiters
) -> Parts:
    """Take a completion apart.

    Args:
        content: the message's content.
        reasoning: its `reasoning_content`, where the server runs a reasoning parser.
        finish_reason: "stop", "length" or another.
        delimiters: of the model.
    """
    if reasoning:
        return Parts(reasoning, content, closed=bool(content))
    content = content.lstrip()
    # The last one: a model may open a second thought after its first answer.
    before, end, after = content.rpartition(delimiters.end)
    if end:
        return Parts(before.removeprefix(delimiters.start), after, closed=True)
    opened = delimiters.opened or content.startswith(delimiters.start)
    if opened or (delimiters.opened is None and finish_reason == "length"):
        return Parts(content.removeprefix(delimiters.start), "", closed=False)
    return Parts("", content, closed=True)
