"""Generators of reasoning-gym as tasks: `reasoning_gym:NAME`."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from led_sglang.common.extras import require
from led_sglang.evaluation import EvaluationError
from led_sglang.evaluation.items import Item, checked_items

PREFIX = "reasoning_gym:"
PROMPT = "{problem}\n\nGive your final answer within <answer> and </answer>."
# Where no --limit says how many.
_SIZE = 100
_SEED = 0
GRADER = Path(__file__).parent / "grading" / "gym.py"


def load_problems(name: str, limit: int | None) -> tuple[Item, ...]:
    """Problems of a generator, the same on every machine with this version of reasoning-gym.

    Args:
        name: behind the prefix, such as `countdown`.
        limit: how many; 100 where None.

    Raises:
        EvaluationError: there is no such generator.
        MissingExtra: reasoning-gym is not installed.
    """
    require("reasoning", "reasoning_gym")
    from reasoning_gym.factory import DATASETS

    from led_sglang.evaluation.grading.gym import dataset

    if name not in DATASETS:
        raise EvaluationError(
            f"task {PREFIX}{name}: reasoning-gym has no {name!r}; it has "
            f"{', '.join(sorted(DATASETS))}"
        )
    size = limit or _SIZE
    facts = {"dataset": name, "size": size, "seed": _SEED, "version": version("reasoning-gym")}
    items = []
    for index, entry in enumerate(dataset(name, size, _SEED)):
        problem, answer = str(entry["question"]), str(entry["answer"] or "")
        row = {"id": str(index), "problem": problem, "index": index, **facts}
        items.append(Item(str(index), problem, answer, row=row))
    return checked_items(name, items)
