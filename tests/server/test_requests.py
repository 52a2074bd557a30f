"""Bad requests are HTTP 400 that name the key; statistics reach every endpoint that shows them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from harness import Server, serve

pytestmark = pytest.mark.served_models("tied", "trained")


@pytest.fixture(scope="module")
def server(model_path: Path) -> Iterator[Server]:
    # float32: a greedy token must not hang on the rounding of a batch's shape.
    with serve(model_path, "--dtype", "float32") as running:
        yield running


BAD: list[tuple[Any, str]] = [
    ({"sampler": "beam"}, "sampler"),
    ({"ledd": {"depth": 2}}, "ledd"),
    ({"led": {"dept": 2}}, "dept"),
    ({"led": {"depth": "2"}}, "depth"),
    ({"led": {"depth": True}}, "depth"),
    ({"led": {"depth": 9}}, "depth"),
    ({"led": {"depth": 10**30}}, "depth"),
    ({"led": {"candidates": 0}}, "candidates"),
    ({"led": {"candidates": 65}}, "candidates"),
    ({"sampler": "regular", "led": {"candidates": 4}}, "led"),
    ({"led": {"gate": "rate"}}, "gate_rate"),
    ({"led": [1]}, "led"),
    ([1], "custom_params"),
]


@pytest.mark.parametrize(("custom", "key"), BAD)
def test_bad_parameters_are_400_and_name_the_key(
    server: Server, prompts: list[Sequence[int]], custom: Any, key: str
) -> None:
    body = {"input_ids": list(prompts[0]), "sampling_params": {"custom_params": custom}}
    response = server.post("/generate", body)
    assert response.status_code == 400
    assert key in response.text
    assert len(server.generate(prompts[0], max_new_tokens=2, ignore_eos=True)["output_ids"]) == 2


def test_nan_is_400_and_harms_no_neighbour(server: Server, prompts: list[Sequence[int]]) -> None:
    """A bad request among good ones that run: they answer as they do alone."""
    sampling = {"temperature": 0, "max_new_tokens": 24, "ignore_eos": True}
    good = [(prompt, {"led": {"gate": "always"}}, sampling) for prompt in prompts[:4]]
    alone = [server.generate_batch([body])[0]["output_ids"] for body in good]
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(server.generate_batch, good)
        # The first two are no JSON: the body itself is refused, before it is known of any key.
        for number in ("NaN", "-Infinity", '"NaN"', "1e308", "-0.1"):
            text = (
                f'{{"input_ids": {list(prompts[0])}, "sampling_params": {{"custom_params": '
                f'{{"led": {{"gate": "rate", "gate_rate": {number}}}}}}}}}'
            )
            headers = {"content-type": "application/json"}
            response = requests.post(server.url + "/generate", data=text, headers=headers)
            assert response.status_code == 400
            assert "is no JSON" in response.text or "gate_rate" in response.text
        assert [answer["output_ids"] for answer in running.result()] == alone


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_openai_endpoints_refuse_too(server: Server, path: str) -> None:
    body = {
        "model": "m",
        "prompt": "x",
        "messages": [{"role": "user", "content": "x"}],
        "custom_params": {"led": {"candidates": 65}},
    }
    response = server.post(path, body)
    assert response.status_code == 400
    assert "candidates" in response.text


def test_chat_answer_shows_explored_tokens(server: Server) -> None:
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "What is 2 + 3?"}],
        "max_tokens": 16,
        "return_meta_info": True,
        "seed": 7,
        "ignore_eos": True,
        "custom_params": {"led": {"gate": "always"}},
    }
    choice = server.post("/v1/chat/completions", body).json()["choices"][0]
    led = choice["meta_info"]["led"]
    assert led["explored_tokens"] == led["think_tokens"] > 0


def test_same_seed_same_tokens_alone_and_among_strangers(
    server: Server, prompts: list[Sequence[int]]
) -> None:
    sampling = {"max_new_tokens": 32, "ignore_eos": True, "temperature": 0.6}
    alone = server.generate(prompts[0], sampling_seed=5, **sampling)["output_ids"]
    bodies = [(p, None, {**sampling, "sampling_seed": 100 + i}) for i, p in enumerate(prompts)]
    bodies[7] = (prompts[0], None, {**sampling, "sampling_seed": 5})
    together = server.generate_all(bodies, concurrency=len(bodies))
    assert together[7]["output_ids"] == alone


def test_explores_only_while_thinking(server: Server, tokenizer: Any) -> None:
    closed = tokenizer.encode("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    answer = server.generate(closed, max_new_tokens=1, ignore_eos=True)
    assert answer["meta_info"]["led"]["think_tokens"] == 0
