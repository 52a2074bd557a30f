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
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from led_sglang.common.user_files import FOLDER_NAME, check_keys, parse_yaml
from led_sglang.evaluation import EvaluationError, gym
from led_sglang.evaluation.grading.graders import python_grader
from led_sglang.evaluation.hub import load_items
from led_sglang.evaluation.items import Item, read_items
from led_sglang.evaluation.prompts import TEMPLATES, render

GOLDS = ("expr", "latex")
_KEYS = ("name", "kind", "data", "hub", "gold", "grader", "prompt")


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

    def fingerprint(self) -> dict[str, Any]:
        """What of the task decides the numbers of a run; equal `prompts` are comparable."""
        prompts = hashlib.sha256()
        for item in self.items:
            shown = [item.id, self.prompt(item), item.expected_answer, item.row]
            prompts.update(json.dumps(shown, sort_keys=True).encode() + b"\n")
        facts: dict[str, Any] = {"kind": self.kind, "gold": self.gold, "items": len(self.items)}
        facts["prompts"] = prompts.hexdigest()[:16]
        if self.grader is not None:
            facts["grader"] = hashlib.sha256(self.grader.read_bytes()).hexdigest()[:16]
        return facts


def load_task(name: str, *, data: Path | None = None, limit: int | None = None) -> Task:
    """A task by name (one that is shipped), by the path of its YAML file, or a generator's.

    Args:
        name: `gsm8k`, `my/task.yaml`, or `reasoning_gym:countdown`.
        data: JSONL file to use instead of the task's own items.
        limit: number of items to keep.

    Raises:
        EvaluationError: unknown task, a wrong key or a bad line; the message says where.
    """
    if name.startswith(gym.PREFIX):
        generator = name.removeprefix(gym.PREFIX)
        if data is not None:
            raise EvaluationError(f"--data {name}=...: its problems are made, not read")
        return Task(
            name=f"gym-{generator}",
            kind="python",
            items=gym.load_problems(generator, limit),
            template=gym.PROMPT,
            grader=gym.GRADER,
        )
    shipped = Path(str(resources.files("led_sglang.configs"))) / "tasks"
    path = Path(name) if name.endswith((".yaml", ".yml")) else shipped / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in shipped.glob("*.yaml")))
        raise EvaluationError(
            f"task {name!r}: there is no file {path.name if path.parent == shipped else path}; "
            f"shipped tasks: {known}; your own is named by the path of its YAML file, and "
            f"reasoning-gym's as {gym.PREFIX}NAME"
        )
    keys = _read_keys(path)
    if data is not None:
        items = read_items(data, keys["kind"])
    elif "data" in keys:
        items = read_items(path.parent / keys["data"], keys["kind"])
    else:
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


def _read_keys(path: Path) -> Mapping[str, Any]:
    document = parse_yaml(path.read_bytes(), str(path), EvaluationError)
    keys = check_keys(document, str(path), optional=_KEYS, error=EvaluationError)
    for key, value in keys.items():
        if key != "hub" and not isinstance(value, str):
            raise EvaluationError(f"{path}: {key} must be a text, not {value!r}")
    if not FOLDER_NAME.fullmatch(keys.get("name", "")):
        raise EvaluationError(
            f"{path}: name must be of letters, digits, '-', '_' and '.', which does not begin it"
        )
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
