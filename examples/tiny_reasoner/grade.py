"""The task's grader for `led-sglang eval`: the answer is the walk and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def grade(item: Mapping[str, Any], answer: str) -> tuple[bool, str | None]:
    """The verdict on the text after the thought, and the walk that was read."""
    walk = answer.strip()
    return walk == item["expected_answer"], walk if walk.isdecimal() else None
