"""A seed gives the same tokens alone, among strangers and after retractions; n samples differ."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from harness import Body, Server, recorded_tokens, serve

pytestmark = pytest.mark.served_models("tied", "trained")

SAMPLING = {"temperature": 0.8, "max_new_tokens": 40, "ignore_eos": True}


@pytest.fixture(scope="module")
def wandering(think_ids: tuple[int, int]) -> dict[str, Any]:
    """Both delimiters come often, so that rows change phase on the way."""
    start, end = map(str, think_ids)
    return SAMPLING | {"logit_bias": {end: 3.5, start: 2.5}}


def seeded(prompts: list[Sequence[int]], wandering: dict[str, Any], index: int) -> Body:
    led = [
        {"trace": True},
        {"gate": "always"},
        {"candidates": 20, "depth": 4},
        {"preset": "release"},
        {"gate": "rate", "gate_rate": 0.5, "trace": True},
    ][index % 5]
    custom = {"led": led}
    return prompts[index % len(prompts)], custom, wandering | {"sampling_seed": 1000 + index}


def strangers(prompts: list[Sequence[int]], wandering: dict[str, Any]) -> list[Body]:
    """32 requests of every kind: other seeds, no seeds, regular ones, other lengths."""
    customs: list[Any] = [{"led": {"gate": "always"}}, {"sampler": "regular"}, {"led": {}}, None]
    return [
        (
            prompts[-1 - i % len(prompts)],
            customs[i % 4],
            wandering
            | {"max_new_tokens": 10 + i, "temperature": 0.5 + i / 64}
            | ({"sampling_seed": i} if i % 3 else {}),
        )
        for i in range(32)
    ]


@pytest.fixture(scope="module")
def server(model_path: Path) -> Iterator[Server]:
    with serve(model_path, "--dtype", "float32") as running:
        yield running


@pytest.fixture(scope="module")
def alone(
    server: Server, prompts: list[Sequence[int]], wandering: dict[str, Any]
) -> list[dict[str, Any]]:
    return [server.generate_batch([seeded(prompts, wandering, i)])[0] for i in range(10)]


def test_tokens_are_those_of_earlier_versions(alone: list[dict[str, Any]], trained: bool) -> None:
    """In float32, what processors differ by in the last bits draws no other token."""
    recorded = recorded_tokens("trained" if trained else "tied")
    assert [answer["output_ids"] for answer in alone] == recorded


def test_among_strangers(
    server: Server,
    prompts: list[Sequence[int]],
    wandering: dict[str, Any],
    alone: list[dict[str, Any]],
) -> None:
    for index in range(5):
        batch = strangers(prompts, wandering)
        batch[6 * index + 1] = seeded(prompts, wandering, index)
        answer = server.generate_batch(batch)[6 * index + 1]
        assert answer["output_ids"] == alone[index]["output_ids"]


def test_after_retractions(
    server: Server,
    prompts: list[Sequence[int]],
    wandering: dict[str, Any],
    alone: list[dict[str, Any]],
) -> None:
    """All running requests go back to the queue, again and again, while they decode."""
    with ThreadPoolExecutor(1) as pool:
        bodies = [seeded(prompts, wandering, i) for i in range(10)]
        running = pool.submit(server.generate_batch, bodies)
        while not running.done():
            time.sleep(0.3)
            assert server.post("/pause_generation", {"mode": "retract"}).status_code == 200
            assert server.post("/continue_generation", {}).status_code == 200
        answers = running.result()
    assert all(a["meta_info"]["num_retractions"] > 0 for a in answers)
    left_thinking = 0
    for answer, solo in zip(answers, alone, strict=True):
        assert answer["output_ids"] == solo["output_ids"]
        ours, theirs = answer["meta_info"]["led"], solo["meta_info"]["led"]
        # A token that was sampled again after a retraction is counted once.
        for key in ("think_tokens", "explored_tokens", "depth_histogram"):
            assert ours[key] == theirs[key]
        phases = [[e["phase"] for e in a["meta_info"].get("led_trace", ())] for a in (answer, solo)]
        assert phases[0] == phases[1]
        left_thinking += "think" in phases[1] and "response" in phases[1]
    assert left_thinking > 0


def test_n_samples_have_n_seeds(
    server: Server, prompts: list[Sequence[int]], trained: bool
) -> None:
    sampling = SAMPLING | {"max_new_tokens": 24}
    body = {
        "input_ids": list(prompts[0]),
        "sampling_params": sampling | {"n": 16, "sampling_seed": 70},
    }
    samples = [answer["output_ids"] for answer in server.post("/generate", body).json()]
    # The trained model is sure of most tokens: some of its walks repeat.
    assert len({tuple(sample) for sample in samples}) >= (4 if trained else 16)
    singles = [
        server.generate(prompts[0], None, **sampling, sampling_seed=70 + i)["output_ids"]
        for i in range(16)
    ]
    assert samples == singles


def test_openai_seed_is_the_same_seed(server: Server) -> None:
    body = {
        "model": "default",
        "messages": [{"role": "user", "content": "What is 2 + 3?"}],
        "max_tokens": 24,
        "temperature": 0.8,
        "ignore_eos": True,
        "seed": 5,
    }
    texts = [
        server.post("/v1/chat/completions", body).json()["choices"][0]["message"]["content"]
        for _ in range(2)
    ]
    assert texts[0] == texts[1]
    other = server.post("/v1/chat/completions", body | {"seed": 6}).json()
    assert other["choices"][0]["message"]["content"] != texts[0]


def test_seed_holds_after_thinking(
    server: Server, prompts: list[Sequence[int]], think_ids: tuple[int, int]
) -> None:
    """The engine ignores seeds without deterministic inference; LED's requests keep theirs."""
    sampling = {"temperature": 0.9, "top_p": 0.9, "top_k": 40, "min_p": 0.01, "ignore_eos": True}
    start, end = think_ids
    sampling["logit_bias"] = {str(start): -50.0}  # it does not think again
    closed = [*prompts[0], end]
    runs = [
        server.generate(closed, None, **sampling, max_new_tokens=32, sampling_seed=seed)
        for seed in (8, 8, 9)
    ]
    assert runs[0]["meta_info"]["led"]["think_tokens"] == 0
    assert runs[0]["output_ids"] == runs[1]["output_ids"] != runs[2]["output_ids"]
