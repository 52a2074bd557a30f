"""The verifiers of reasoning-gym as a grader of `kind: python`.

A worker makes the problem anew from its dataset, seed and index: what a verifier needs of it is not
always JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import reasoning_gym

from led_sglang.evaluation.grading.graders import stated_answer


def grade(item: Mapping[str, Any], answer: str) -> tuple[bool, str | None]:
    """Right where the dataset's own verifier gives the full score of 1.

    Raises:
        ValueError: this version of reasoning-gym makes another problem.
    """
    predicted = stated_answer(answer)
    if predicted is None:
        return False, None
    problems = dataset(item["dataset"], item["size"], item["seed"])
    entry = problems[item["index"]]
    if entry["question"] != item["problem"]:
        raise ValueError(f"{item['dataset']} {item['index']} is another problem here")
    return problems.score_answer(predicted, entry) >= 1.0, predicted


@cache
def dataset(name: str, size: int, seed: int) -> Any:
    """The problems of a generator of reasoning-gym."""
    return reasoning_gym.create_dataset(name, size=size, seed=seed)
