"""`regular` requests are bit-identical to a plain server's: tokens and log-probabilities."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from gateway import dropping_gateway
from harness import PLAIN_COMMAND, PLAIN_ENVIRONMENT, Body, Server, serve

pytestmark = pytest.mark.served_models("tied", "trained")

# Every kind of request that takes another way through the engine's sampler.
SAMPLING: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 1.0},
    {"temperature": 0.6, "top_p": 0.95, "top_k": 20},
    {"temperature": 0.8, "min_p": 0.05},
    {"temperature": 0.7, "frequency_penalty": 0.5, "presence_penalty": 0.3},
    {"temperature": 0.7, "repetition_penalty": 1.2},
    {"temperature": 0.9, "logit_bias": {"65": 3.0, "66": -4.0}},
    {"temperature": 0.6, "top_k": 20, "sampling_seed": 11},
]
COMMON = {"max_new_tokens": 24, "ignore_eos": True}
REGULAR = {"sampler": "regular"}
LED_ROWS = [{"led": {}}, {"led": {"gate": "always", "trace": True}}, {"led": {"depth": 2}}]

Answers = list[tuple[list[int], list[Any]]]


def tokens_and_logprobs(answers: list[dict[str, Any]]) -> Answers:
    return [
        (a["output_ids"], [entry[0] for entry in a["meta_info"]["output_token_logprobs"]])
        for a in answers
    ]


def one_at_a_time(server: Server, prompts: list[Sequence[int]], custom: Any) -> Answers:
    """Sampled tokens repeat because requests come in the same order, one by one."""
    answers = [
        server.generate(prompt, custom, return_logprob=True, **COMMON, **sampling)
        for prompt, sampling in zip(prompts, SAMPLING, strict=False)
    ]
    return tokens_and_logprobs(answers)


def batches(prompts: list[Sequence[int]], custom: Any, other: Sequence[Any]) -> list[list[Body]]:
    """Three batches: even rows are `custom`, odd rows take turns in `other`."""
    return [
        [
            (
                prompts[(b * 5 + i) % len(prompts)],
                custom if i % 2 == 0 else other[i // 2 % len(other)],
                COMMON | SAMPLING[(b * 2 + i // 2) % len(SAMPLING)],
            )
            for i in range(10)
        ]
        for b in range(3)
    ]


def in_batches(server: Server, work: list[list[Body]]) -> list[Answers]:
    return [tokens_and_logprobs(server.generate_batch(b, return_logprob=True)) for b in work]


def kinds_of_lines(server: Server) -> set[str]:
    """How the lines begin that a server has logged, without the numbers in them."""
    logged = re.findall(r"^\[[-0-9: ]+\] (.*)", server.log.read_text(), re.MULTILINE)
    return {" ".join(re.sub(r"[\d.]+", "", line).split()[:4]) for line in logged}


@dataclass(frozen=True)
class Plain:
    """What a server without the plugin answers, alone and in batches, and what it logs."""

    alone: Answers
    batched: list[Answers]
    logged: set[str]


@pytest.fixture(scope="module")
def plain(model_path: Path, prompts: list[Sequence[int]]) -> Plain:
    with serve(model_path, command=PLAIN_COMMAND, env=PLAIN_ENVIRONMENT) as server:
        assert "led" not in server.get("/server_info").json()["internal_states"][0]
        alone = one_at_a_time(server, prompts, None)
        batched = in_batches(server, batches(prompts, None, [None]))
        return Plain(alone, batched, kinds_of_lines(server))


def test_led_server_leaves_regular_requests_and_the_log_alone(
    model_path: Path, prompts: list[Sequence[int]], plain: Plain
) -> None:
    """`--log-level info` is SGLang's own default, and shows all that SGLang says at it."""
    with serve(model_path, "--log-level", "info") as server:
        assert one_at_a_time(server, prompts, REGULAR) == plain.alone
        # Odd rows are LED's: their presence changes nothing in the even ones.
        mixed = in_batches(server, batches(prompts, REGULAR, LED_ROWS))
        assert plain.logged - kinds_of_lines(server) == set()
    assert len(plain.logged) > 20
    for ours, theirs in zip(mixed, plain.batched, strict=True):
        assert ours[0::2] == theirs[0::2]
    changed = [o[1::2] != t[1::2] for o, t in zip(mixed, plain.batched, strict=True)]
    assert all(changed), "LED rows were sampled plainly"


def test_server_with_regular_as_its_default(
    model_path: Path, prompts: list[Sequence[int]], plain: Plain
) -> None:
    with serve(model_path, "--sampler", "regular", "--enable-samplers", "led") as server:
        assert one_at_a_time(server, prompts, None) == plain.alone
        assert in_batches(server, batches(prompts, None, [REGULAR])) == plain.batched
        answer = server.generate(prompts[0], {"sampler": "led"}, **COMMON)
        assert answer["meta_info"]["led"]["think_tokens"] > 0
        with dropping_gateway(server.url) as gateway:
            name = server.get("/v1/models").json()["data"][0]["id"]
            asked: list[dict[str, Any]] = [
                {"model": name, "custom_params": REGULAR},
                {"model": name, "custom_params": {"sampler": "led"}},
                {"model": f"{name}:led"},
            ]
            made_by = [
                requests.post(
                    f"{gateway}/v1/completions", json={"prompt": "x", "max_tokens": 4, **body}
                ).json()["model"]
                for body in asked
            ]
    # A choice that is lost on its way is plain decoding there, never LED.
    assert made_by == [f"{name}:regular", f"{name}:regular", f"{name}:led"]
