"""Behind a gateway that drops `custom_params` and headers: a model's name still chooses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests
from gateway import dropping_gateway
from harness import Server

from .test_endpoints import BODIES, REGULAR, answer, texts

ENDPOINTS = (
    *("/generate", "/v1/completions", "/v1/chat/completions"),
    *("/v1/messages", "/v1/responses"),
)


@pytest.fixture(scope="module")
def gateway(server: Server) -> Iterator[str]:
    with dropping_gateway(server.url) as url:
        yield url


@pytest.mark.parametrize("path", ENDPOINTS)
def test_a_name_chooses_and_the_answer_says_so(server: Server, gateway: str, path: str) -> None:
    name = server.get("/v1/models").json()["data"][0]["id"]
    own: dict[str, Any] = {"custom_params": REGULAR}
    expected = answer(server, path, BODIES[path](own) | {"model": name})
    by_name = requests.post(gateway + path, json=BODIES[path]({}) | {"model": f"{name}:regular"})
    assert texts(by_name.json()) == expected
    # The choice is lost on the way, and the answer is LED's: it says so where it has a `model`.
    dropped = requests.post(gateway + path, json=BODIES[path](own) | {"model": name})
    assert texts(dropped.json()) != expected
    if path != "/generate":
        models = [response.json()["model"] for response in (by_name, dropped)]
        assert models == [f"{name}:regular", f"{name}:led"]
    assert not any(header.lower().startswith("x-led") for header in dropped.headers)
