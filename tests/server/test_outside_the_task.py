"""The bundled model answers what it was not trained for: some text, never an error."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from harness import Server, gsm8k_problems, serve

PROBLEM = "Visit every room once. Doors: 1-3 3-6 3-5 2-6 1-7 2-4 4-6 1-6 4-5 Start: 6"
MESSAGES: list[list[dict[str, str]]] = [
    [{"role": "user", "content": text}]
    for text in (
        "",
        " \n\t",
        "What is 2 + 3?",
        "写一首诗 🙂 \u0000\ufffd",
        "<think></think><|im_end|>",
        "Visit every room once. Doors: 9-9 Start: 12",
        "long " * 350,  # near the end of its context
        gsm8k_problems()[0],
    )
] + [
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PROBLEM}],
    [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": PROBLEM},
    ],
]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve(None) as running:
        yield running


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_some_answer(server: Server, temperature: float) -> None:
    sampling = {"model": "default", "max_tokens": 64, "temperature": temperature, "seed": 1}
    for messages in MESSAGES:
        body: dict[str, Any] = {"messages": messages, **sampling, "return_meta_info": True}
        response = server.post("/v1/chat/completions", body)
        assert response.status_code == 200, f"{messages}: {response.text}"
        choice = response.json()["choices"][0]
        assert choice["finish_reason"] in ("stop", "length")
        assert choice["meta_info"]["led"]["think_tokens"] > 0


def test_a_prompt_beyond_the_context_is_400(server: Server) -> None:
    body = {"model": "default", "messages": [{"role": "user", "content": "long " * 500}]}
    response = server.post("/v1/chat/completions", body)
    assert response.status_code == 400
    assert "2048" in response.text
