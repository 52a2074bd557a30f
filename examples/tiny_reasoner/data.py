"""Problems of the training, a file of training traces, and the held-out problems.

python -m tiny_reasoner.data --level search --out build/tiny_reasoner
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from tiny_reasoner.task import LEVELS, Level, Problem, completion, make_problem, make_thought

TRACES, RL_PROBLEMS, HELD_OUT = "traces.jsonl", "rl_problems.jsonl", "held_out.jsonl"


def problems(seed: int, level: Level, *, held_out: bool) -> Iterator[Problem]:
    """Endless distinct problems of one side of the split, in an order that the seed fixes."""
    rng = random.Random(seed)
    seen: set[str] = set()
    while True:
        problem = make_problem(rng, level)
        if problem.is_held_out == held_out and problem.text not in seen:
            seen.add(problem.text)
            yield problem


def row(problem: Problem, number: int) -> dict[str, Any]:
    """A line of `led-sglang eval`'s format, with the problem's shape and chance level."""
    return {
        "id": str(number),
        "problem": problem.text,
        "expected_answer": problem.answer,
        "shape": problem.digest,
        "chance": round(problem.chance, 6),
    }


def write(
    out: Path, level: Level, *, traces: int, rl_problems: int, held_out: int, seed: int
) -> None:
    """Write the three files; the held-out shapes are in none but the last."""
    out.mkdir(parents=True, exist_ok=True)
    rng = random.Random(f"thoughts {seed}")
    train = problems(seed, level, held_out=False)
    with _whole(out / TRACES) as file:
        for number in tqdm(range(traces), desc="traces"):
            problem = next(train)
            text = completion(make_thought(problem, rng, level))
            file.write(json.dumps(row(problem, number) | {"completion": text}) + "\n")
    for name, source, count in (
        (RL_PROBLEMS, train, rl_problems),
        (HELD_OUT, problems(seed + 1, level, held_out=True), held_out),
    ):
        with _whole(out / name) as file:
            for number in tqdm(range(count), desc=name):
                file.write(json.dumps(row(next(source), number)) + "\n")


@contextmanager
def _whole(path: Path) -> Iterator[TextIO]:
    """A file that has its name only once it is complete."""
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8") as file:
        yield file
    part.rename(path)


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of one of the files."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--level", choices=tuple(LEVELS), default="search")
    parser.add_argument("--traces", type=int, default=40_000)
    parser.add_argument("--rl-problems", type=int, default=8_000)
    parser.add_argument("--held-out", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = vars(parser.parse_args())
    write(options.pop("out"), LEVELS[options.pop("level")], **options)
