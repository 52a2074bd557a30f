"""What exploring did, step by step: where, with which rooms, and what became of the answer.

Every sample is drawn twice by a server with the same seed: by `regular` and by `led` with its trace
on. Both share their noise, so they part only where LED explored (or its candidates cut the tail).
A step of a thought is at a fork if more than one room is left to go to, and on track if the walk so
far begins the solution; only at a fork on track can a choice be right or wrong.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import requests
import scipy.special
from tqdm import tqdm
from transformers import AutoTokenizer

from led_sglang.common.server_process import running_server
from tiny_reasoner.sft import prompt_text
from tiny_reasoner.task import Level, Problem, reward
from tiny_reasoner.thoughts import parse_problem

# Requests of one call.
_BATCH = 300


@dataclass(frozen=True)
class Step:
    """A think token of an LED answer, at a fork on track.

    Attributes:
        explored: whether it was drawn from the mix.
        right: whether it goes on to the solution.
        allowed: whether it is an unvisited room next door.
        gate: probability that the step explores.
        final_right, mix_right: probability of the right room among the final layer's candidates
            and in the mix that an exploring step draws from.
        judged: whether the likeliest candidate is the right room.
    """

    explored: bool
    right: bool
    allowed: bool
    gate: float
    final_right: float
    mix_right: float
    judged: bool


@dataclass(frozen=True)
class Pair:
    """A sample drawn by both.

    Attributes:
        regular, led: whether the answer is right.
        explored: whether a think token was.
        parted: whether the two texts differ.
        places: of each explored think token: "fork on track", "fork off track" or "forced".
        steps: its forks on track.
        tokens: think tokens of LED.
    """

    regular: bool
    led: bool
    explored: bool
    parted: bool
    places: list[str]
    steps: list[Step]
    tokens: int


def draw(
    model_path: Path,
    rows: Sequence[Mapping[str, Any]],
    level: Level,
    out: Path,
    *,
    temperatures: Sequence[float],
    n: int,
) -> None:
    """Ask a server of its own for all samples of both, unless `out` holds them already.

    Args:
        model_path: the checkpoint.
        rows: lines of `held_out.jsonl`.
        out: JSON lines, one a sample: `id`, `temperature`, `regular`, `led` (texts), `trace`.
        temperatures, n: n samples a problem at each.
    """
    if out.is_file():
        return
    tokenizer: Any = AutoTokenizer.from_pretrained(model_path)
    prompts = {row["id"]: tokenizer(prompt_text(tokenizer, row["problem"])) for row in rows}
    keys = [(t, row["id"], sample) for t in temperatures for row in rows for sample in range(n)]
    flags = ["--model-path", str(model_path), "--dtype", "float32"]
    flags += ["--max-running-requests", str(_BATCH)]
    part = out.with_suffix(".part")
    environment = {"OMP_NUM_THREADS": "1"}
    with (
        running_server(flags, out.with_suffix(".log"), env=environment) as url,
        part.open("w", encoding="utf-8") as file,
    ):
        for first in tqdm(range(0, len(keys), _BATCH), desc="pairs"):
            some = keys[first : first + _BATCH]
            ids = [prompts[name]["input_ids"] for _, name, _ in some]
            drawn = {
                sampler: _generate(
                    url,
                    ids,
                    [
                        {
                            "temperature": temperature,
                            "top_p": 0.95,
                            "top_k": 20,
                            "max_new_tokens": level.max_new_tokens,
                            "sampling_seed": first + index,
                            "custom_params": {"sampler": sampler, **params},
                        }
                        for index, (temperature, _, _) in enumerate(some)
                    ],
                )
                for sampler, params in (("regular", {}), ("led", {"led": {"trace": True}}))
            }
            for (temperature, name, _), plain, led in zip(
                some, drawn["regular"], drawn["led"], strict=True
            ):
                line = {"id": name, "temperature": temperature, "regular": plain["text"]}
                line |= {"led": led["text"], "trace": _slim(led["meta_info"]["led_trace"])}
                file.write(json.dumps(line) + "\n")
    part.rename(out)


def _generate(url: str, ids: list[list[int]], sampling: list[dict[str, Any]]) -> list[Any]:
    body = {"input_ids": ids, "sampling_params": sampling}
    answer = requests.post(f"{url}/generate", json=body, timeout=600)
    answer.raise_for_status()
    found: list[Any] = answer.json()
    return found


def _slim(trace: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What is looked at, of the think tokens."""
    keys = ("token_id", "explored", "explore_probability", "candidate_ids", "layer_probs")
    return [{key: step[key] for key in keys} for step in trace if step["phase"] == "think"]


def read_pairs(
    file: Path, rows: Sequence[Mapping[str, Any]], tokenizer: Any
) -> dict[float, list[Pair]]:
    """The samples of `draw`, looked at, by temperature."""
    problems = {row["id"]: parse_problem(row["problem"]) for row in rows}
    found: dict[float, list[Pair]] = {}
    with file.open(encoding="utf-8") as lines:
        for line in map(json.loads, lines):
            pair = _pair(problems[line["id"]], line, tokenizer)
            found.setdefault(line["temperature"], []).append(pair)
    return found


def _pair(problem: Problem, line: Mapping[str, Any], tokenizer: Any) -> Pair:
    seen = list(_walked(problem, line["trace"], tokenizer))
    return Pair(
        regular=reward(line["regular"], problem.answer) == 1.0,
        led=reward(line["led"], problem.answer) == 1.0,
        explored=any(token["explored"] for token in line["trace"]),
        parted=line["regular"] != line["led"],
        places=[place for token, place, _ in seen if token["explored"]],
        steps=[step for _, _, step in seen if step],
        tokens=len(seen),
    )


def _walked(
    problem: Problem, trace: Sequence[Mapping[str, Any]], tokenizer: Any
) -> Iterator[tuple[Mapping[str, Any], str, Step | None]]:
    """Each think token, the kind of its place, and the step if it is a fork on track."""
    (solution,) = problem.solutions
    walk: list[int] = []
    for token in trace:
        ways = (
            [room for room in problem.neighbours.get(walk[-1], ()) if room not in walk]
            if (walk)
            else [problem.start]
        )
        on_track = tuple(walk) == solution[: len(walk)]
        place, step = "forced", None
        if len(ways) > 1:
            place = "fork on track" if on_track else "fork off track"
            if on_track:
                step = _step(token, _id(tokenizer, solution[len(walk)]), _ids(tokenizer, ways))
        yield token, place, step
        text = tokenizer.decode([token["token_id"]]).strip()
        # A mark ends the walk, and the next begins anew.
        walk = [*walk, int(text)] if len(text) == 1 and text.isdecimal() else []


def _ids(tokenizer: Any, rooms: Sequence[int]) -> set[int]:
    return {_id(tokenizer, room) for room in rooms}


def _id(tokenizer: Any, room: int) -> int:
    found: int = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(f"{room} "))[0]
    return found


def _step(token: Mapping[str, Any], right: int, allowed: set[int]) -> Step:
    ids, layers = token["candidate_ids"], np.array(token["layer_probs"])
    # A step that exploits would have explored from the richest mix as well.
    mixes = layers.cumsum(0) / layers.cumsum(0).sum(1, keepdims=True)
    entropies = scipy.special.entr(mixes).sum(1)
    final, mix = mixes[0], mixes[int(entropies.argmax())]
    at = ids.index(right) if right in ids else None
    return Step(
        explored=token["explored"],
        right=token["token_id"] == right,
        allowed=token["token_id"] in allowed,
        gate=token["explore_probability"],
        final_right=0.0 if at is None else float(final[at]),
        mix_right=0.0 if at is None else float(mix[at]),
        judged=ids[int(final.argmax())] == right,
    )
