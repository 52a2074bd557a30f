"""What a soak sends: a fixed pool of requests, and the tokens each of them must get."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness import Server

from led_sglang.methods.soft_thinking.params import SOFT_SAMPLERS

REGULAR = {"sampler": "regular"}
# One of each: gates, depths, both layer sets and presets, statistics, no think phase; DoLa.
SEEDED: list[dict[str, Any]] = [
    {"led": {}},
    {"led": {"gate": "always", "trace": True}},
    {"led": {"depth": 2, "candidates": 20}},
    {"led": {"layers": "release", "depth": 4, "final_norm": True}},
    {"sampler": "dola"},
    {"led": {"preset": "release"}},
    {"led": {"gate": "entropy", "gate_entropy": 1.0, "behaviour_logprobs": True}},
    {"led": {"gate": "rate", "gate_rate": 0.5, "think_only": False}},
    {"led": {"candidates": 20, "candidate_top_p": 0.95, "normalize_layers": True}},
    {"sampler": "dola", "dola": {"layers": "high"}},
]
# Tokens of these are compared with nothing: nothing seeds them, or mixtures carry rounding on.
FREE: list[dict[str, Any] | None] = [REGULAR, {"led": {}}, None]
SOFT: list[dict[str, Any] | None] = [{"sampler": name} for name in SOFT_SAMPLERS]
# `regular` rows repeat where nothing is drawn: temperature 0. No penalties: which tokens they have
# counted depends on SGLang's batches.
GREEDY: list[dict[str, Any]] = [
    {},
    {"min_p": 0.1, "top_p": 0.9},
    {"logit_bias": {"260": 2.0, "70": 1.0}},
    {"regex": "[a-z ]{200}"},
]


@dataclass(frozen=True)
class Job:
    """One request of the pool; `expected` is None where nothing but its length is known."""

    prompt: tuple[int, ...]
    custom: dict[str, Any] | None
    sampling: dict[str, Any]
    kind: str  # "regular", "seeded" or "free"
    expected: tuple[int, ...] | None = None

    @property
    def length(self) -> int:
        length: int = self.sampling["max_new_tokens"]
        return length

    def body(self, **extra: Any) -> dict[str, Any]:
        # Not by `ignore_eos`: SGLang admits no more of such requests than it is sure to finish, and
        # would never retract one.
        bias = {"256": -99.0, "258": -99.0, **self.sampling.get("logit_bias", {})}
        sampling = {"custom_params": self.custom, **self.sampling, "logit_bias": bias}
        return {"input_ids": list(self.prompt), "sampling_params": sampling, **extra}


def build_pool(
    prompts: Sequence[Sequence[int]], size: int, soft: bool = False, seed: int = 0
) -> list[Job]:
    """`size` different jobs: a third regular, half seeded, the rest without expectation.

    Args:
        prompts: token ids; a job takes the end of one.
        size: number of jobs.
        soft: whether the soft methods are among the last kind.
        seed: of the choice.
    """
    draw = random.Random(seed)
    settings, greedy = itertools.cycle(SEEDED), itertools.cycle(GREEDY)
    free = itertools.cycle(FREE + SOFT if soft else FREE)
    jobs = []
    for number in range(size):
        prompt = tuple(prompts[number % len(prompts)][-draw.randrange(30, 80) :])
        tokens = {"max_new_tokens": draw.randrange(8, 65)}
        if number % 6 in (0, 2):
            sampling = {"temperature": 0, **next(greedy), **tokens}
            jobs.append(Job(prompt, REGULAR, sampling, "regular"))
        elif number % 6 == 5:
            jobs.append(Job(prompt, next(free), {"temperature": 0.9, **tokens}, "free"))
        else:
            sampling = {"temperature": draw.choice([0.6, 1.0]), "sampling_seed": number, **tokens}
            jobs.append(Job(prompt, next(settings), sampling, "seeded"))
    return jobs


def answered_alone(server: Server, jobs: Sequence[Job], plain: bool) -> list[Job]:
    """The jobs with what a server answers to each, one at a time.

    Args:
        server: the plain server for `regular` jobs, the server under test for the others.
        plain: whether `server` knows nothing of LED.
    """
    done = []
    for job in jobs:
        body = job.body()
        if plain:
            del body["sampling_params"]["custom_params"]
        answer = server.post("/generate", body)
        assert answer.status_code == 200, answer.text
        tokens = tuple(answer.json()["output_ids"])
        done.append(Job(job.prompt, job.custom, job.sampling, job.kind, tokens))
    return done
