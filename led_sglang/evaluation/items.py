"""The problems of a task, and the JSONL files that hold them.

A line of the JSONL file is an object: `id`, `problem`, `expected_answer`; for `choice` also
`options` (unless the problem lists them) and a letter as the answer; for `code` `tests`
(`inputs`, `outputs`, `fn_name` or null) and, where the solution is a function, `starter_code`;
for `python` whatever the grader reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from led_sglang.common.user_files import numbered_lines
from led_sglang.evaluation import EvaluationError

LETTERS = "ABCDEFGHIJ"
# Kinds whose verdict needs no gold answer.
_WITHOUT_GOLD = ("code", "python")


@dataclass(frozen=True)
class Item:
    """One problem.

    Attributes:
        tests: for code: `inputs`, `outputs`, `fn_name`.
        row: for python: the whole line.
    """

    id: str
    problem: str
    expected_answer: str = ""
    options: tuple[str, ...] = ()
    starter_code: str = ""
    tests: Mapping[str, Any] = field(default_factory=dict)
    row: Mapping[str, Any] = field(default_factory=dict)


def read_items(path: Path, kind: str) -> tuple[Item, ...]:
    """Read a JSONL file of items.

    Raises:
        EvaluationError: the file is missing, empty or has a bad line, whose number is named.
    """
    items = []
    for number, line in numbered_lines(path, EvaluationError):
        try:
            items.append(make_item(json.loads(line), kind))
        except ValueError as error:  # JSONDecodeError is one
            raise EvaluationError(f"{path}, line {number}: {error}") from None
    return checked_items(str(path), items)


def checked_items(where: str, items: Iterable[Item]) -> tuple[Item, ...]:
    """The items as a tuple; refuses none at all and an id used twice."""
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise EvaluationError(f"{where}: id {item.id!r} is used twice")
        seen.add(item.id)
    if not seen:
        raise EvaluationError(f"{where} holds no items")
    return tuple(items)


def make_item(row: Any, kind: str) -> Item:
    """One item from a parsed line.

    Raises:
        ValueError: a key is missing or has a wrong value; the message names it.
    """
    if not isinstance(row, dict):
        raise ValueError("a line must be a JSON object")
    for key in ("id", "problem", *(() if kind in _WITHOUT_GOLD else ("expected_answer",))):
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise ValueError(f"{key} must be a text")
    if not isinstance(row.get("expected_answer", ""), str):
        raise ValueError("expected_answer must be a text")
    options = row.get("options", [])
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise ValueError("options must be a list of texts")
    if kind == "choice":
        letters = LETTERS[: len(options) or 4]
        if row["expected_answer"] not in tuple(letters):
            raise ValueError(f"expected_answer must be one of the letters {letters}")
    tests = row.get("tests", {})
    if kind == "code" and not _good_tests(tests):
        raise ValueError("tests must be {inputs: [texts], outputs: as many texts, fn_name}")
    return Item(
        id=row["id"],
        problem=row["problem"],
        expected_answer=row.get("expected_answer") or "",
        options=tuple(options),
        starter_code=row.get("starter_code") or "",
        tests=tests,
        row=row if kind == "python" else {},
    )


def _good_tests(tests: Any) -> bool:
    return (
        isinstance(tests, dict)
        and all(isinstance(tests.get(key), list) for key in ("inputs", "outputs"))
        and all(isinstance(text, str) for text in tests["inputs"] + tests["outputs"])
        and len(tests["inputs"]) == len(tests["outputs"]) > 0
    )
