"""Behind a gateway that drops `custom_params` and headers: a model's name still chooses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from gateway import dropping_gateway
from harness import Server

from led_sglang.bench import command
from led_sglang.cli import main

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


def test_trace_ends_where_it_gets_another_sampler_or_other_settings(
    gateway: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "trace.html"
    flags = ["trace", "--base-url", gateway, "--prompt", "x", "--max-new-tokens", "4"]
    for more, words in (
        (["--compare", "regular"], 'the sampler "regular", and "led" answered'),
        (["--compare", "led,regular"], "led with trace = True, and answered with False"),
        (["--led", '{"depth": 3}'], "led with depth = 3, and answered with 8"),
    ):
        assert main([*flags, "--out", str(page), *more]) == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith(f"led-sglang: {gateway} was asked for {words}: a gateway in between")
        assert not page.exists()


def test_bench_ends_where_it_gets_another_sampler(
    server: Server,
    gateway: str,
    model_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Before it measures; what stands in front of its own server is this module's gateway."""

    @contextmanager
    def behind(url: str) -> Iterator[str]:
        yield url

    measured: list[Any] = []

    def run_plan(*given: Any) -> list[str]:
        measured.append(given)
        return []

    monkeypatch.setattr(command, "machine", lambda device: {"processor": "one"})
    monkeypatch.setattr(command, "run_plan", run_plan)
    flags = ["bench", "--model-path", str(model_path), "--batch-sizes", "1", "--output-len", "8"]
    for url, status in ((gateway, 2), (server.url, 0)):
        monkeypatch.setattr(command, "running_server", lambda *_, url=url: behind(url))
        assert main([*flags, "--out", str(tmp_path / str(status))]) == status
        assert len(measured) == (status == 0)
        said = capsys.readouterr().err
        lost = f'{gateway} was asked for the sampler "regular", and "led" answered: a gateway in'
        assert (lost in said) == (status == 2)


def test_servers_without_the_flag_serve_no_metrics(server: Server) -> None:
    """What the dashboard then says: unit/test_deploy.py."""
    assert server.get("/metrics").status_code == 404
