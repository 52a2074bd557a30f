"""Deterministic inference resets the sampling backend; LED must be there all the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import deterministic_plugin
import pytest
from extra_plugin import plugin_environment
from features.checks import ALWAYS, GREEDY, assert_led_tokens
from harness import Server, serve
from oracle import Oracle

from led_sglang.cli import main

SAMPLING = {"temperature": 0.8, "max_new_tokens": 24, "ignore_eos": True}


@pytest.fixture(scope="module")
def server(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("plugin")
    environment = plugin_environment(folder, Path(deterministic_plugin.__file__))
    flags = ("--dtype", "float32", "--enable-deterministic-inference")
    flags += ("--attention-backend", "torch_native")
    with serve(model_path, *flags, env=environment) as running:
        assert running.get("/server_info").json()["enable_deterministic_inference"]
        yield running


def test_the_probe_names_kernels_that_fell_back(server: Server, capsys: Any) -> None:
    assert main(["doctor", "--url", server.url]) == 1
    assert "fell back to plain torch (the CPU step did not compile: OSError: no place" in (
        capsys.readouterr().out
    )
    assert main(["doctor", "--url", server.url, "--kernels", "torch"]) == 0


def test_tokens_equal_the_oracle(
    server: Server, model_path: Path, prompts: list[Sequence[int]]
) -> None:
    oracle = Oracle(model_path)
    bodies = [(prompt, {"led": ALWAYS}, GREEDY | {"max_new_tokens": 32}) for prompt in prompts[:2]]
    for prompt, answer in zip(prompts, server.generate_batch(bodies), strict=False):
        assert_led_tokens(oracle, prompt, answer["output_ids"])


def test_a_group_without_seeds_is_no_group_of_copies(
    server: Server, prompts: list[Sequence[int]], think_ids: tuple[int, int]
) -> None:
    """SGLang seeds all alike; a method's requests draw by their ids, also behind a thought."""
    for custom in ({"led": ALWAYS}, {"led": ALWAYS | {"depth": 1}}):
        group = server.generate_batch([(prompts[2], custom, SAMPLING)] * 16)
        assert len({tuple(answer["output_ids"]) for answer in group}) == 16
    answered = [*prompts[2], think_ids[1]]
    group = server.generate_batch([(answered, {"led": ALWAYS}, SAMPLING)] * 16)
    # The engine's own draws from some hundred tokens.
    assert len({answer["output_ids"][0] for answer in group}) > 8


def test_every_request_has_a_seed(server: Server, prompts: list[Sequence[int]]) -> None:
    """`regular` has SGLang's own default; the others one of their id, or their own."""
    for custom, named in (({"led": ALWAYS}, {"rid": "mine"}), ({"sampler": "regular"}, {})):
        body = {"input_ids": list(prompts[2]), **named}
        body["sampling_params"] = SAMPLING | {"custom_params": custom}
        runs = [server.post("/generate", body).json()["output_ids"] for _ in range(2)]
        assert runs[0] == runs[1]
        other = server.generate(prompts[2], custom, **SAMPLING, sampling_seed=1)["output_ids"]
        assert other != runs[0]
    body = {
        "input_ids": list(prompts[2]),
        "sampling_params": SAMPLING | {"n": 3, "custom_params": {"led": ALWAYS}},
    }
    samples = [tuple(answer["output_ids"]) for answer in server.post("/generate", body).json()]
    assert len(set(samples)) == 3


def test_mixed_batch(server: Server, prompts: list[Sequence[int]]) -> None:
    """Seeds hold among neighbours of either kind."""
    customs = [{"led": ALWAYS}, {"sampler": "regular"}] * 3
    bodies = [
        (prompts[row], custom, SAMPLING | {"sampling_seed": row, "top_k": 20})
        for row, custom in enumerate(customs)
    ]
    together = [answer["output_ids"] for answer in server.generate_batch(bodies)]
    alone = [server.generate_batch([body])[0]["output_ids"] for body in bodies]
    assert together == alone


@pytest.mark.parametrize("custom", [{"led": ALWAYS}, {"sampler": "regular"}])
def test_min_p_is_refused(server: Server, prompts: list[Sequence[int]], custom: Any) -> None:
    """SGLang's seeded sampler asserts that no row of a batch has it, and ends the scheduler."""
    sampling = SAMPLING | {"min_p": 0.1, "custom_params": custom}
    body = {"input_ids": [list(p) for p in prompts[:2]], "sampling_params": [SAMPLING, sampling]}
    response = server.post("/generate", body)
    assert response.status_code == 400
    assert "min_p does not go with deterministic inference" in response.text
    assert len(server.generate(prompts[0], custom, **SAMPLING)["output_ids"]) == 24
