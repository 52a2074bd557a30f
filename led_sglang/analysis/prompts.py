"""Prompts from a file: one a line, as plain text or as JSON objects."""

from __future__ import annotations

import json
from pathlib import Path

from led_sglang.analysis import AnalysisError
from led_sglang.common.user_files import numbered_lines

# Keys under which data sets of questions hold them, in the order they are looked for.
_KEYS = ("prompt", "problem", "question")


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file.

    Args:
        path: `.jsonl`, one object a line with a text under `prompt`, `problem` or `question`; any
            other file is plain text, one prompt a line. Blank lines are skipped.

    Raises:
        AnalysisError: unreadable, a bad line (its number is named), or no prompt at all.
    """
    numbered = numbered_lines(path, AnalysisError)
    if not numbered:
        raise AnalysisError(f"{path} holds no prompt")
    if path.suffix != ".jsonl":
        return [line.strip() for _, line in numbered]
    return [_prompt(line, f"{path}, line {number}") for number, line in numbered]


def _prompt(line: str, where: str) -> str:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise AnalysisError(f"{where} is not JSON: {error}") from None
    found = [row[key] for key in _KEYS if key in row] if isinstance(row, dict) else []
    if not found or not isinstance(found[0], str) or not found[0].strip():
        raise AnalysisError(f"{where} has no text under {', '.join(_KEYS)}")
    return str(found[0])
