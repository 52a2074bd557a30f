"""The program in an answer, by the rule of the official LiveCodeBench checker."""

from __future__ import annotations


def fenced_code(answer: str) -> str:
    """The lines between the last two lines that hold three backquotes; empty without two of them.

    That is the checker's whole rule (`lcb_runner.utils.extraction_utils`): it does not ask whether
    a line opens a fence, closes one, or is a line of the program that prints one.

    Args:
        answer: Markdown. Lines end with a line feed; a carriage return before it stays.
    """
    lines = answer.split("\n")
    fences = [number for number, line in enumerate(lines) if "```" in line]
    if len(fences) < 2:
        return ""
    opening, closing = fences[-2:]
    return "\n".join(lines[opening + 1 : closing])
