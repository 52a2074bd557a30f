"""Data parallelism and several tokenizer workers, on one server: two replicas, two front ends."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from features.checks import ALWAYS, GREEDY, assert_led_tokens, on_replica
from harness import Server, serve
from oracle import Oracle

from led_sglang.common.answers import SAMPLER_HEADER

# One-shot connections spread over the front ends; so many reach both of them.
ATTEMPTS = 12


@pytest.fixture(scope="module")
def server(model_path: Path) -> Iterator[Server]:
    # Each replica is a process of one thread; two cores are enough.
    os.environ["SGLANG_CPU_OMP_THREADS_BIND"] = "0|1"
    try:
        with serve(
            model_path, "--dtype", "float32", "--dp", "2", "--tokenizer-worker-num", "2"
        ) as running:
            yield running
    finally:
        del os.environ["SGLANG_CPU_OMP_THREADS_BIND"]


def test_two_front_ends_are_running(server: Server) -> None:
    children = psutil.Process(server.process.pid).children(recursive=True)
    listening = {
        child.pid
        for child in [psutil.Process(server.process.pid), *children]
        for connection in child.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == server.port
    }
    assert len(listening) >= 2


def test_both_replicas_follow_the_oracle(
    server: Server, model_path: Path, prompts: list[Sequence[int]]
) -> None:
    oracle = Oracle(model_path)
    for rank in (0, 1):
        answer = on_replica(server, rank, prompts[rank], **GREEDY, max_new_tokens=32)
        assert_led_tokens(oracle, prompts[rank], answer["output_ids"])
        assert answer["meta_info"]["led"]["explored_tokens"] > 0


def test_seeds_agree_and_unseeded_replicas_differ(
    server: Server, prompts: list[Sequence[int]]
) -> None:
    """Two replicas with one random seed must not be two copies of one stream of noise."""
    sampling = {"temperature": 1.0, "max_new_tokens": 24, "ignore_eos": True}
    seeded = [
        on_replica(server, r, prompts[2], sampling_seed=7, **sampling)["output_ids"] for r in (0, 1)
    ]
    assert seeded[0] == seeded[1]
    unseeded = [on_replica(server, r, prompts[2], **sampling)["output_ids"] for r in (0, 1)]
    assert unseeded[0] != unseeded[1]


def test_every_front_end_checks_seeds_and_reports(
    server: Server, prompts: list[Sequence[int]]
) -> None:
    good: dict[str, Any] = {"temperature": 0.8, "max_new_tokens": 8, "ignore_eos": True}
    body = {
        "input_ids": list(prompts[3]),
        "sampling_params": good | {"custom_params": {"led": ALWAYS}},
    }
    bad = {"input_ids": list(prompts[3]), "sampling_params": {"custom_params": {"led": {"k": 1}}}}
    samples = []
    for _ in range(ATTEMPTS):
        refused = server.post("/generate", bad, headers={"connection": "close"})
        assert refused.status_code == 400
        assert "custom_params.led.k" in refused.text
        several = body | {"sampling_params": body["sampling_params"] | {"n": 2, "sampling_seed": 5}}
        response = server.post("/generate", several, headers={"connection": "close"})
        assert response.headers[SAMPLER_HEADER] == "led"
        listed = server.get("/v1/models").json()["data"]
        assert [model["id"].rpartition(":")[2] for model in listed[1:]] == ["led", "regular"]
        answers = response.json()
        assert [a["meta_info"]["led"]["explored_tokens"] for a in answers] == [8, 8]
        samples.append([answer["output_ids"] for answer in answers])
    assert samples == [samples[0]] * ATTEMPTS
    assert samples[0][0] != samples[0][1]
    assert len(server.get("/server_info").json()["internal_states"]) == 2
