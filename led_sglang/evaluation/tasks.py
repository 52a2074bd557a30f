"""Tasks: a small YAML file that names the items, the prompt and the grader.

Keys of the YAML file:

    name    letters, digits, `-`, `_`, `.`
    kind    math | choice | code | text | python
    data    JSONL file, relative to the YAML file   (either this)
    hub     rows, path, name, split, ...            (or this: see `hub.py`)
    gold    math only: expr (plain numbers) | latex
    grader  python only: file with the function `grade(item, answer)`, relative to the YAML file
    prompt  optional text with `{problem}`; the paper's prompt of the kind is the default, for text
            and python the problem alone

A line of the JSONL file is an object: `id`, `problem`, `expected_answer`; for `choice` also
`options` (unless the problem lists them) and a letter as the answer; for `code` `tests`
(`inputs`, `outputs`, `fn_name` or null) and, where the solution is a function, `starter_code`;
for `python` whatever the grader reads.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from led_sglang.evaluation import EvaluationError
from led_sglang.evaluation.grading.graders import python_grader
from led_sglang.evaluation.prompts import LETTERS, TEMPLATES, render

GOLDS = ("expr", "latex")
_KEYS = ("name", "kind", "data", "hub", "gold", "grader", "prompt")
# Kinds whose verdict needs no gold answer.
_WITHOUT_GOLD = ("code", "python")
_NAME = re.compile(r"[\w.-]+")


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


@dataclass(frozen=True)
class Task:
    """A benchmark.

    Attributes:
        gold: how the expected answer is read, for math.
        template: of the prompt; empty for that of the kind.
        grader: file with the user's grader, for python.
    """

    name: str
    kind: str
    items: tuple[Item, ...]
    gold: str = "latex"
    template: str = ""
    grader: Path | None = None

    def prompt(self, item: Item) -> str:
        """The single user turn sent for an item."""
        return render(self.template or TEMPLATES[self.kind], self.kind, item)

    def prompt_digest(self) -> str:
        """Digest of every prompt and gold answer: two runs with the same one are comparable."""
        digest = hashlib.sha256()
        for item in self.items:
            facts = [item.id, self.prompt(item), item.expected_answer, item.row]
            digest.update(json.dumps(facts, sort_keys=True).encode() + b"\n")
        return digest.hexdigest()[:16]

    def fingerprint(self) -> dict[str, Any]:
        """What of the task decides the numbers of a run."""
        facts: dict[str, Any] = {
            "kind": self.kind,
            "gold": self.gold,
            "items": len(self.items),
            "prompts": self.prompt_digest(),
        }
        if self.grader is not None:
            facts["grader"] = hashlib.sha256(self.grader.read_bytes()).hexdigest()[:16]
        return facts


def load_task(name: str, *, data: Path | None = None, limit: int | None = None) -> Task:
    """A task by name (one that is shipped) or by the path of its YAML file.

    Args:
        name: `gsm8k`, or `my/task.yaml`.
        data: JSONL file to use instead of the task's own items.
        limit: keep only the first so many items.

    Raises:
        EvaluationError: unknown task, a wrong key or a bad line; the message says where.
    """
    shipped = Path(str(resources.files("led_sglang.configs"))) / "tasks"
    path = Path(name) if name.endswith((".yaml", ".yml")) else shipped / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in shipped.glob("*.yaml")))
        raise EvaluationError(
            f"task {name!r}: there is no file {path.name if path.parent == shipped else path}; "
            f"shipped tasks: {known}; your own is named by the path of its YAML file"
        )
    keys = _read_keys(path)
    if data is not None:
        items = read_items(data, keys["kind"])
    elif "data" in keys:
        items = read_items(path.parent / keys["data"], keys["kind"])
    else:
        from led_sglang.evaluation.hub import load_items

        items = load_items(path.name, keys["hub"])
    return Task(
        name=keys["name"],
        kind=keys["kind"],
        items=items[:limit],
        gold=keys.get("gold", "latex"),
        template=keys.get("prompt", ""),
        grader=_checked_grader(path, keys["grader"]) if keys["kind"] == "python" else None,
    )


def _checked_grader(path: Path, name: str) -> Path:
    grader = (path.parent / name).resolve()
    try:
        python_grader(str(grader))
    # It is the user's code: anything may be wrong with it.
    except Exception as error:
        raise EvaluationError(f"{path}: grader {grader}: {error!r}") from None
    return grader


def _read_keys(path: Path) -> dict[str, Any]:
    try:
        keys = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise EvaluationError(f"{path} is not YAML: {error}") from None
    if not isinstance(keys, dict):
        raise EvaluationError(f"{path} must be a mapping")
    for key in keys:
        if key not in _KEYS:
            raise EvaluationError(f"{path}: unknown key {key} (allowed: {', '.join(_KEYS)})")
    if not _NAME.fullmatch(str(keys.get("name", ""))):
        raise EvaluationError(f"{path}: name must be of letters, digits, '-', '_' and '.'")
    if keys.get("kind") not in TEMPLATES:
        raise EvaluationError(f"{path}: kind must be one of {', '.join(TEMPLATES)}")
    if ("data" in keys) == ("hub" in keys):
        raise EvaluationError(f"{path}: give one of data and hub")
    if keys["kind"] == "math" and keys.get("gold") not in GOLDS:
        raise EvaluationError(f"{path}: gold must be one of {', '.join(GOLDS)}")
    if (keys["kind"] == "python") != isinstance(keys.get("grader"), str):
        raise EvaluationError(f"{path}: kind python, and no other, needs grader: a Python file")
    if "{problem}" not in keys.get("prompt", "{problem}"):
        raise EvaluationError(f"{path}: prompt must contain {{problem}}")
    return keys


def read_items(path: Path, kind: str) -> tuple[Item, ...]:
    """Read a JSONL file of items.

    Raises:
        EvaluationError: the file is missing, empty or has a bad line, whose number is named.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{path}: {error}") from None
    items = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
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
