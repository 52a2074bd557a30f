"""The task: walk through a few rooms, entering each exactly once (a Hamiltonian path).

A problem lists the doors and the room to start in, and has exactly one solution. A thought tries
walks, writes `stuck` where no unvisited room is next door, and goes back to the last room that has
another one, writing the walk so far again. The answer is the last walk as one number, so any
grader that compares numbers can check it. How large the problems are, and how many walks a thought
may try, is its level.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import count, islice, pairwise

PREFIX = "Visit every room once. Doors: "
START = "Start: "
STUCK, DONE = "stuck\n", "done\n"

_HELD_OUT_SHARE = 8


@dataclass(frozen=True)
class Level:
    """How large problems are, and how the thoughts of the training search.

    Attributes:
        rooms, doors: of each problem; at most nine rooms, a digit each.
        longest: thought tokens of a trace, one a visited room and one a mark.
        walks: that a thought may try before it must answer; None: as many as it takes.
        searches: made for a trace, in random order, until one is right and not too long, the last
            kept as it is; None: as many as it takes, so that the problems are not filtered.
    """

    rooms: int
    doors: int
    longest: int
    walks: int | None = None
    searches: int | None = None

    @property
    def max_new_tokens(self) -> int:
        """The longest trace, what closes it, the answer.

        Where walks are not limited, there is room for one more; where they are, for none, or RL
        soon learns to take a second one.
        """
        whole = self.longest + self.rooms + 3
        return whole + 14 if self.walks is None else whole


# `search` is the bundled model's. A thought of `budget` may err at every fork and cannot go back.
LEVELS = {
    "search": Level(rooms=7, doors=9, longest=48),
    "budget": Level(rooms=7, doors=10, longest=8, walks=1, searches=4),
}


@dataclass(frozen=True)
class Problem:
    """Doors as pairs of rooms from 1 on, the smaller number first, in the order of the text."""

    doors: tuple[tuple[int, int], ...]
    start: int

    @cached_property
    def rooms(self) -> int:
        """How many there are: each has a door, or there were no walk through all."""
        return max(max(door) for door in self.doors)

    @cached_property
    def neighbours(self) -> dict[int, tuple[int, ...]]:
        """Rooms next door, by room."""
        found: dict[int, list[int]] = {room: [] for room in range(1, self.rooms + 1)}
        for a, b in self.doors:
            found[a].append(b)
            found[b].append(a)
        return {room: tuple(rooms) for room, rooms in found.items()}

    @property
    def text(self) -> str:
        """The user's message."""
        return PREFIX + "".join(f"{a}-{b} " for a, b in self.doors) + f"{START}{self.start}"

    @cached_property
    def solutions(self) -> tuple[tuple[int, ...], ...]:
        """The first two walks from the start that enter each room once, or the only one."""
        return tuple(islice(self._walks((self.start,)), 2))

    @property
    def answer(self) -> str:
        """The one solution as a number."""
        (walk,) = self.solutions
        return "".join(map(str, walk))

    @property
    def digest(self) -> str:
        """Of the problem's shape: the same for any naming of the rooms and any order of the doors.

        Three rounds of colour refinement from (degree, is the start). Problems of one shape always
        share a digest, so a split by digest separates shapes; different shapes may share one.
        """
        colours = {room: f"{len(n)}{room == self.start}" for room, n in self.neighbours.items()}
        for _ in range(3):
            colours = {
                room: _sha(colours[room] + "|" + ",".join(sorted(colours[other] for other in near)))
                for room, near in self.neighbours.items()
            }
        return _sha(",".join(sorted(colours.values())))

    @property
    def is_held_out(self) -> bool:
        """Whether the problem's shape is kept from training."""
        return int(self.digest[:8], 16) % _HELD_OUT_SHARE == 0

    @property
    def chance(self) -> float:
        """Probability that one random walk over unvisited rooms, never going back, is right."""
        probability, seen = 1.0, set()
        (walk,) = self.solutions
        for room in walk[:-1]:
            seen.add(room)
            probability /= sum(other not in seen for other in self.neighbours[room])
        return probability

    def _walks(self, walk: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        if len(walk) == self.rooms:
            yield walk
            return
        for room in self.neighbours[walk[-1]]:
            if room not in walk:
                yield from self._walks((*walk, room))


def make_problem(rng: random.Random, level: Level) -> Problem:
    """A random problem with exactly one solution."""
    rooms = range(1, level.rooms + 1)
    every = [(a, b) for a in rooms for b in rooms if a < b]
    while True:
        walk = rng.sample(rooms, level.rooms)
        path = {(min(a, b), max(a, b)) for a, b in pairwise(walk)}
        doors = [*path, *rng.sample([d for d in every if d not in path], level.doors - len(path))]
        problem = Problem(tuple(rng.sample(sorted(doors), level.doors)), walk[0])
        if len(problem.solutions) == 1:
            return problem


def make_thought(problem: Problem, rng: random.Random, level: Level) -> str:
    """A depth-first search in random order, as the level wants it."""
    thought = ""
    for _ in count() if level.searches is None else range(level.searches):
        thought, tokens = _search(problem, rng, level.walks)
        if thought.endswith(DONE) and tokens <= level.longest:
            break
    return thought


def _search(problem: Problem, rng: random.Random, walks: int | None) -> tuple[str, int]:
    walk, lines, tokens = [problem.start], [], 0
    untried = [_shuffled(problem, walk, rng)]
    while True:
        while len(walk) < problem.rooms and untried[-1]:
            walk.append(untried[-1].pop())
            untried.append(_shuffled(problem, walk, rng))
        tokens += len(walk) + 1
        is_done = len(walk) == problem.rooms
        lines.append("".join(f"{room} " for room in walk) + (DONE if is_done else STUCK))
        if is_done or len(lines) == walks:
            return "".join(lines), tokens
        while not untried[-1]:
            walk.pop()
            untried.pop()


def _shuffled(problem: Problem, walk: list[int], rng: random.Random) -> list[int]:
    rooms = [room for room in problem.neighbours[walk[-1]] if room not in walk]
    rng.shuffle(rooms)
    return rooms


def completion(thought: str) -> str:
    """What the model writes after a prompt whose template has opened the thought."""
    answer = "".join(thought.splitlines()[-1].split()[:-1])
    return f"{thought}</think>\n\n{answer}<|im_end|>"


_COMPLETION = re.compile(r"</think>\s*([0-9]+)\s*(?:<\|im_end\|>)?(?:<\|endoftext\|>)*\s*\Z")


def reward(text: str, answer: str) -> float:
    """1 if the thought was closed and the text after it is the answer and nothing else, or 0."""
    found = _COMPLETION.search(text)
    return float(found is not None and found[1] == answer)


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
