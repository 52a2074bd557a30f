"""Traces of a real server: true to the oracle, in objects, on the command line, in the browser."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Viewer, chromium
from harness import PLAIN_COMMAND, PLAIN_ENVIRONMENT, Server, serve
from oracle import Oracle
from selenium.webdriver.common.keys import Keys

from led_sglang.cli import main
from led_sglang.common.client import ServerClient, ServerError
from led_sglang.trace import Trace, first_divergence, write_page
from led_sglang.trace.ask import run_trace

PROMPT = "What is 2 + 3? </script><img src=x onerror='document.title=1'>"
SAMPLING = {"temperature": 0.6, "sampling_seed": 11, "max_new_tokens": 120, "ignore_eos": True}
LED = {"depth": 5, "candidates": 6}


@pytest.fixture(scope="module")
def server(model_path: Path) -> Iterator[Server]:
    with serve(model_path, "--dtype", "float32") as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> ServerClient:
    return ServerClient(server.url)


@pytest.fixture(scope="module")
def trace(client: ServerClient) -> Trace:
    return run_trace(client, PROMPT, sampling=SAMPLING, led=LED)


def test_trace_equals_the_reference(client: ServerClient, trace: Trace, model_path: Path) -> None:
    oracle = Oracle(model_path)
    prompt = client.chat_tokens(PROMPT)
    logits, streams = oracle.states([*prompt, *(t.token_id for t in trace.tokens)])
    explored = 0
    for token in trace.tokens:
        step = token.step
        if step is None:
            continue
        at = len(prompt) + token.position - 1
        want = oracle.step(logits[at], streams[at], temperature=0.6, depth=5, candidates=6)
        assert list(step.candidate_ids) == want.candidate_ids
        np.testing.assert_allclose(step.layer_probs, want.layer_probs, rtol=2e-4, atol=1e-8)
        np.testing.assert_allclose(step.entropies, want.entropies, rtol=1e-4)
        np.testing.assert_allclose(step.behaviour_probs, want.behaviour_probs, rtol=2e-4)
        assert step.p1 == pytest.approx(want.p1, rel=1e-4)
        assert step.explore_probability == pytest.approx(want.explore_probability, rel=1e-4)
        picked = step.candidate_ids.index(token.token_id)
        assert step.behaviour_logprob == pytest.approx(np.log(step.behaviour_probs[picked]))
        explored += step.explored
    assert 10 < explored < len(trace.tokens)


def test_the_gate_draw_decides(trace: Trace) -> None:
    steps = [token.step for token in trace.tokens if token.step]
    for step in steps:
        assert step.gate_draw is not None
        assert step.explore_probability is not None
        assert step.explored == (step.gate_draw < step.explore_probability)
        assert step.depth == (step.entropies.argmax() + 1 if step.explored else 1)
    assert len({step.gate_draw for step in steps}) == len(steps)


def test_a_chat_answer_holds_the_same_trace(server: Server, trace: Trace) -> None:
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": PROMPT}],
        "custom_params": {"sampler": "led", "led": LED | {"trace": True}},
        "return_meta_info": True,
        **{"temperature": 0.6, "seed": 11, "max_tokens": 120, "ignore_eos": True},
    }
    answer = server.post("/v1/chat/completions", body).json()
    chat = Trace.from_response(answer, settings=trace.settings)
    assert [t.token_id for t in chat.tokens] == [t.token_id for t in trace.tokens]
    ours, theirs = chat.layers_to_pandas(), trace.layers_to_pandas()
    np.testing.assert_allclose(
        ours[["p", "a", "entropy"]], theirs[["p", "a", "entropy"]], rtol=1e-4
    )
    assert (ours.groupby("position").size() == 5 * 6).all()


def test_a_stop_string_leaves_one_entry_a_token(client: ServerClient, trace: Trace) -> None:
    text = next(t.text for t in trace.tokens[20:] if t.text and t.text.isalnum())
    cut = run_trace(client, PROMPT, sampling=SAMPLING | {"stop": [text]}, led=LED)
    assert 0 < len(cut.tokens) < len(trace.tokens)
    assert first_divergence(cut, trace) == len(cut.tokens)


def test_texts_are_the_server_s(client: ServerClient, trace: Trace) -> None:
    ids = [token.token_id for token in trace.tokens]
    whole = client.texts([ids])[0]
    said = "".join(token.text or "" for token in trace.tokens)
    # A byte that is no character is one replacement sign alone and may share one in a row.
    assert said.replace("\ufffd", "") == whole.replace("\ufffd", "")


def test_command_compares_two_samplers(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "trace.html"
    flags = ["--base-url", server.url + "/v1", "--prompt", PROMPT, "--out", str(page)]
    flags += ["--max-new-tokens", "40", "--temperature", "0", "--compare", "regular,led"]
    assert main(["trace", *flags]) == 0
    printed = capsys.readouterr()
    assert "first difference" in printed.out
    assert "explored" in printed.err
    assert page.read_text().startswith("<!doctype html>")


def test_regular_runs_have_phases_only(client: ServerClient) -> None:
    # At temperature 0 a gate that never opens leaves what the engine would have said.
    greedy = {"temperature": 0, "max_new_tokens": 40, "ignore_eos": True}
    regular = run_trace(client, PROMPT, sampler="regular", sampling=greedy)
    closed = run_trace(client, PROMPT, sampling=greedy, led={"gate": "never"})
    assert first_divergence(regular, closed) is None
    assert [t.phase for t in regular.tokens] == [t.phase for t in closed.tokens]
    assert not regular.traced
    assert all(token.step is None for token in regular.tokens)


def test_viewer_shows_the_trace(trace: Trace, client: ServerClient, tmp_path: Path) -> None:
    regular = run_trace(client, PROMPT, sampler="regular", sampling=SAMPLING)
    page = write_page([regular, trace], tmp_path / "trace.html")
    explored = [t.position for t in trace.tokens if t.step and t.step.explored]
    with chromium(tmp_path / "profile") as browser:
        viewer = Viewer(browser, page)
        assert viewer.selected() == explored[0]
        for position in explored[1:4]:
            viewer.press("n")
            assert viewer.selected() == position
        viewer.press("p")
        assert viewer.selected() == explored[2]
        check_heat_map(viewer, trace)
        viewer.press(Keys.ARROW_RIGHT)
        assert viewer.selected() == explored[2] + 1
        viewer.press("s")
        assert "has no trace" in viewer.script("return document.body.innerText")
        # A side without explored tokens passes the key on.
        viewer.press("n")
        assert viewer.selected() == next(i for i in explored if i > explored[2] + 1)
        viewer.press("d")
        assert viewer.selected() == first_divergence(regular, trace)
        assert viewer.script("return document.querySelector('#prompt p').textContent") == PROMPT
        request = viewer.script("return document.querySelectorAll('.request')[1].textContent")
        assert all(part in request for part in ("depth 5", "candidates 6", "gate confidence"))
        assert viewer.script("return document.images.length") == 0
        assert viewer.errors() == []


def check_heat_map(viewer: Viewer, trace: Trace) -> None:
    """Every cell of the selected token's two heat maps against the trace."""
    step = trace.tokens[viewer.selected()].step
    assert step is not None
    for key, rows in (("p", step.layer_probs), ("a", step.cumulative)):
        for depth, row in enumerate(rows, start=1):
            ids, values = zip(*viewer.cells(depth), strict=True)
            assert ids == step.candidate_ids
            # p is the server's float32, number for number
            np.testing.assert_allclose(values, row, rtol=0 if key == "p" else 1e-6)
        np.testing.assert_allclose([v for _, v in viewer.cells("q")], step.behaviour_probs, rtol=0)
        np.testing.assert_allclose(viewer.entropies(), step.entropies, rtol=1e-6)
        viewer.press("a")


def test_a_server_without_the_plugin_is_named(
    model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve(model_path, command=PLAIN_COMMAND, env=PLAIN_ENVIRONMENT) as plain:
        out = tmp_path / "trace.html"
        assert main(["trace", "--base-url", plain.url, "--prompt", "x", "--out", str(out)]) == 2
        assert "without led-sglang" in capsys.readouterr().err
        assert not out.exists()
        assert main(["doctor", "--url", plain.url]) == 1
        assert "decodes without LED" in capsys.readouterr().out


BAD_COMMANDS: list[tuple[Sequence[str], str]] = [
    (["--compare", "beam"], "beam"),
    (["--led", json.dumps({"depth": 99})], "depth"),
]


@pytest.mark.parametrize(("flags", "named"), BAD_COMMANDS)
def test_the_server_s_refusal_is_passed_on(
    server: Server, flags: Sequence[str], named: str, capsys: Any, tmp_path: Path
) -> None:
    base = ["trace", "--base-url", server.url, "--prompt", "x", "--out", str(tmp_path / "t.html")]
    assert main([*base, *flags]) == 2
    assert named in capsys.readouterr().err


def test_no_server_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "--base-url", "http://127.0.0.1:9", "--prompt", "x"]) == 2
    assert "no answer from http://127.0.0.1:9" in capsys.readouterr().err


def test_something_else_than_sglang_is_an_error(server: Server) -> None:
    with pytest.raises(ServerError, match="404"):
        ServerClient(server.url + "/elsewhere").led_settings()
