"""Puzzles for the bundled model, in the format of SGLang's `custom` dataset."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

from tiny_reasoner.task import LEVELS, make_problem

# More than the largest batch.
_COUNT = 512


def write_prompts(path: Path) -> None:
    """Write the same puzzles each time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)
    with path.open("w", encoding="utf-8") as out:
        for _ in range(_COUNT):
            problem = make_problem(rng, LEVELS["search"])
            turns = [{"content": problem.text}, {"content": "A walk through seven rooms."}]
            out.write(json.dumps({"conversations": turns}) + "\n")
