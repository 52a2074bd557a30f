"""What is wrong with a thought: which rule of the search it breaks first."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tiny_reasoner.task import DONE, PREFIX, START, STUCK, Problem

_WALK = re.compile(rf"((?:[1-9] )+)({STUCK}|{DONE})")


@dataclass(frozen=True)
class Thought:
    """A thought, checked.

    Attributes:
        walks: how many were tried.
        false_step: a walk goes where no door is, into a room twice, or does not begin at the start.
        false_mark: `stuck` where a way was left, `done` before the last room, or another text.
        again: a walk was tried a second time.
    """

    walks: int
    false_step: bool
    false_mark: bool
    again: bool


def parse_problem(text: str) -> Problem:
    """The problem of a user's message in the task's form."""
    doors, start = text.removeprefix(PREFIX).split(START)
    pairs = (door.split("-") for door in doors.split())
    return Problem(tuple((int(a), int(b)) for a, b in pairs), int(start))


def check_thought(problem: Problem, text: str) -> Thought:
    """Check a thought, cut off or not.

    Args:
        text: what stands between the think tags.
    """
    found = [(tuple(map(int, m[1].split())), m[2]) for m in _WALK.finditer(text)]
    rest = _WALK.sub("", text).strip()
    walks = [walk for walk, _ in found]
    return Thought(
        walks=len(found),
        false_step=not all(_is_walk(problem, walk) for walk in walks),
        false_mark=bool(rest) or not all(_is_marked(problem, *entry) for entry in found),
        again=len(set(walks)) < len(walks),
    )


def share_of_mistakes(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Means over samples as `led-sglang eval` stores them.

    Returns:
        `walks` (a thought), and the shares of thoughts with a `false_step`, with a `false_mark`,
        that try a walk `again`, and that were `cut_off`.
    """
    problems: dict[str, Problem] = {}
    sums = dict.fromkeys(("walks", "false_step", "false_mark", "again", "cut_off"), 0)
    count = 0
    for row in rows:
        problem = problems.setdefault(row["problem"], parse_problem(row["problem"]))
        text = row["reasoning_content"]
        if row["truncated"]:  # its last walk is not over
            text = text[: text.rfind("\n") + 1]
        thought = check_thought(problem, text)
        for key in ("walks", "false_step", "false_mark", "again"):
            sums[key] += getattr(thought, key)
        sums["cut_off"] += row["truncated"]
        count += 1
    return {key: value / count for key, value in sums.items()}


def _is_walk(problem: Problem, walk: tuple[int, ...]) -> bool:
    doors = all(b in problem.neighbours[a] for a, b in pairwise(walk))
    return walk[0] == problem.start and doors and len(set(walk)) == len(walk)


def _is_marked(problem: Problem, walk: tuple[int, ...], mark: str) -> bool:
    if mark == DONE:
        return len(walk) == problem.rooms
    return len(walk) < problem.rooms and set(problem.neighbours[walk[-1]]) <= set(walk)
