"""Every endpoint that samples reads `custom_params`, in its place alone, or answers HTTP 400."""

from __future__ import annotations

import json
from collections.abc import Callable
from os.path import commonprefix
from typing import Any

import pytest
import requests
from harness import Server

from .checks import ALWAYS

LED: dict[str, Any] = {"led": ALWAYS}
REGULAR: dict[str, Any] = {"sampler": "regular"}
COUNT = 24
MESSAGES = [{"role": "user", "content": "Stream."}]
# In the think phase, for endpoints without a chat template.
TEXT = "<|im_start|>assistant\n<think>\nStream."
CHAT: dict[str, Any] = {"model": "m", "messages": MESSAGES, "max_tokens": COUNT, "temperature": 0}
SAMPLING: dict[str, Any] = {"max_new_tokens": COUNT, "temperature": 0, "ignore_eos": True}
OPTIONS: dict[str, Any] = {"num_predict": COUNT, "temperature": 0}
Body = dict[str, Any]

# Body of each endpoint around what stands where its `custom_params` belongs.
BODIES: dict[str, Callable[[Body], Body]] = {
    "/generate": lambda own: {"text": TEXT, "sampling_params": SAMPLING | own},
    "/vertex_generate": lambda own: {
        "instances": [{"text": TEXT}],
        "parameters": {"sampling_params": SAMPLING | own},
    },
    "/v1/completions": lambda own: {
        **{"prompt": TEXT, "max_tokens": COUNT, "temperature": 0, "ignore_eos": True},
        **own,
    },
    "/v1/chat/completions": lambda own: CHAT | {"ignore_eos": True} | own,
    "/invocations": lambda own: CHAT | {"ignore_eos": True} | own,
    "/v1/messages": lambda own: CHAT | own,
    # SGLang takes two tokens off.
    "/v1/responses": lambda own: {
        **{"input": MESSAGES, "max_output_tokens": COUNT + 2, "temperature": 0},
        **own,
    },
    "/api/chat": lambda own: {"messages": MESSAGES, "stream": False, "options": OPTIONS} | own,
    "/api/generate": lambda own: {"prompt": TEXT, "stream": False, "options": OPTIONS} | own,
}
# The same prompt where the choice is known to arrive (test_request_forms.py).
KNOWN = {
    path: "/v1/chat/completions" if "messages" in make({}) or "input" in make({}) else "/generate"
    for path, make in BODIES.items()
}


@pytest.fixture(scope="module")
def body_of(server: Server) -> Callable[..., Body]:
    """`body_of(path, own, **top)`: `own` in the right place, `top` at the top level."""
    # /v1/responses knows the served name alone; /generate would refuse the key.
    named = {"model": server.get("/v1/models").json()["data"][0]["id"]}

    def make(path: str, own: Body, **top: Any) -> Body:
        return BODIES[path](own) | ({} if path == "/generate" else named) | top

    return make


def texts(found: Any) -> str:
    """All text in an answer or an event, thoughts included, in order."""
    if isinstance(found, list):
        return "".join(map(texts, found))
    if isinstance(found, str):
        return found
    if not isinstance(found, dict):
        return ""
    keys = ("predictions", "choices", "message", "delta", "output", "response", "thinking")
    return "".join(texts(found.get(key)) for key in (*keys, "reasoning_content", "text", "content"))


def answer(server: Server, path: str, body: Body) -> str:
    response = server.post(path, body)
    assert response.status_code == 200, response.text
    return texts(response.json())


def streamed(server: Server, path: str, body: Body) -> str:
    response = server.post(path, body | {"stream": True})
    assert response.status_code == 200, response.text
    lines = [line.removeprefix("data: ") for line in response.text.splitlines()]
    pieces = [texts(json.loads(line)) for line in lines if line.startswith("{")]
    # Their last event holds the whole answer.
    return pieces[-1] if path in ("/generate", "/v1/responses") else "".join(pieces)


@pytest.mark.parametrize("path", BODIES)
def test_the_choice_arrives(server: Server, body_of: Any, path: str) -> None:
    """The tokens are those of the method asked for, streamed or not."""
    whole = {}
    for name, custom in (("led", LED), ("regular", REGULAR)):
        own = {"custom_params": custom}
        whole[name] = answer(server, path, body_of(path, own))
        assert whole[name] == answer(server, KNOWN[path], body_of(KNOWN[path], own))
    told_apart = len(commonprefix(list(whole.values()))) + 1
    assert told_apart <= min(map(len, whole.values()))
    if path == "/vertex_generate":  # knows no streams
        return
    for name, custom in (("led", LED), ("regular", REGULAR)):
        pieces = streamed(server, path, body_of(path, {"custom_params": custom}))
        # Ollama's streams end without the last token.
        assert whole[name].startswith(pieces)
        assert len(pieces) >= told_apart


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
def test_ollama_clients_choose_in_options(server: Server, body_of: Any, path: str) -> None:
    """Its own client sends no other keys."""
    for custom in (LED, REGULAR):
        inside = body_of(path, {"options": OPTIONS | {"custom_params": custom}})
        outside = body_of(path, {"custom_params": custom})
        assert answer(server, path, inside) == answer(server, path, outside)
    response = server.post(path, inside | {"custom_params": LED})
    assert_refused(response, "given twice")


def assert_refused(response: requests.Response, *named: str) -> None:
    """HTTP 400 with one sentence of ours, in the form of the endpoint's errors."""
    assert response.status_code == 400, response.text
    error = response.json()
    message = error["message"] if "message" in error else error["error"]["message"]
    for word in named:
        assert word in message, message
    for foreign in ("File", "pydantic", "validation error", "\n"):
        assert foreign not in message, message


BAD: list[tuple[Any, str]] = [
    ({"sampler": "beam"}, "custom_params.sampler must be one of"),
    ({"led": {"depth": 99}}, "custom_params.led.depth"),
    ({"led": {"dept": 4}}, "custom_params.led.dept is unknown"),
    ([1], "custom_params must be an object"),
    ("regular", "custom_params must be an object"),
    (7, "custom_params must be an object"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", BODIES)
def test_bad_parameters(server: Server, body_of: Any, path: str, stream: bool) -> None:
    for custom, named in BAD:
        body = body_of(path, {"custom_params": custom}, stream=stream)
        assert_refused(server.post(path, body), named)


@pytest.mark.parametrize("path", BODIES)
def test_a_body_that_is_no_json(server: Server, path: str) -> None:
    """NaN is what Python's own json makes of it; no endpoint shows files of the server."""
    for body in ('{"custom_params": {"led": {"gate_rate": NaN}}}', '{"model": "\\ud800"}', "{led"):
        headers = {"content-type": "application/json"}
        response = requests.post(server.url + path, data=body, headers=headers, timeout=60)
        assert_refused(response, "the body is no JSON", "char")


MISPLACED: list[tuple[Body, str]] = [
    ({"sampler": "regular"}, "sampler at the top level"),
    ({"led": {"depth": 4}}, "led at the top level"),
    ({"dola": {}}, "dola at the top level"),
    ({"soft-thinking": {}}, "soft-thinking at the top level"),
    ({"soft_thinking_gumbel": {}}, "soft_thinking_gumbel at the top level"),
    ({"led_depth": 4}, "led_depth at the top level"),
    ({"customParams": REGULAR}, "customParams at the top level"),
    ({"custom_param": REGULAR}, "custom_param at the top level"),
    ({"ledDepth": 4}, "ledDepth at the top level"),
    ({"extraBody": {"custom_params": REGULAR}}, "custom_params in extraBody"),
    ({"Extra_Body": {"extra-body": REGULAR}}, "sampler in Extra_Body.extra-body"),
    ({"samplingParams": {"custom_params": REGULAR}}, "custom_params in samplingParams"),
    ({"instances": [{"text": "a"}, REGULAR]}, "sampler in instances"),
    ({"extra_body": {"custom_params": REGULAR}}, "custom_params in extra_body"),
    ({"extra_body": REGULAR}, "sampler in extra_body"),
    (
        {"extra_body": {"sampling_params": {"custom_params": LED}}},
        "custom_params in extra_body.sampling_params",
    ),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", BODIES)
def test_misplaced_keys(server: Server, body_of: Any, path: str, stream: bool) -> None:
    """Whatever else the body says, as where another key is in its place."""
    belongs = {"/generate": "sampling_params.", "/vertex_generate": "parameters.sampling_params."}
    place = f"belong in {belongs.get(path, '')}custom_params, as in {{"
    for extra, named in MISPLACED:
        for own in ({}, {"custom_params": LED}):
            response = server.post(path, body_of(path, own, stream=stream, **extra))
            assert_refused(response, named, f"not read by {path}", place)
    if path not in belongs:
        extra = {"sampling_params": {"custom_params": REGULAR}}
        response = server.post(path, body_of(path, {}, stream=stream, **extra))
        assert_refused(response, "custom_params in sampling_params", place)
    else:
        response = server.post(path, body_of(path, {}, stream=stream, custom_params=REGULAR))
        assert_refused(response, "custom_params at the top level", place)
        response = server.post(path, body_of(path, REGULAR, stream=stream))
        assert_refused(response, "sampler in", place)


def test_misplaced_in_a_batch(server: Server) -> None:
    good = SAMPLING | {"custom_params": LED}
    for bad, named in (
        (SAMPLING | REGULAR, "sampler in sampling_params"),
        (SAMPLING | {"extra_body": {"custom_params": LED}}, "in sampling_params.extra_body"),
        (SAMPLING | {"custom_params": {"sampler": "beam"}}, "custom_params.sampler must be"),
        (SAMPLING | {"custom_params": [LED]}, "custom_params must be an object"),
    ):
        body = {"text": [TEXT, TEXT], "sampling_params": [good, bad]}
        assert_refused(server.post("/generate", body), named)
        body = {"text": TEXT, "sampling_params": bad | {"n": 2}}
        assert_refused(server.post("/generate", body), named)


def test_what_is_not_ours_goes_on(server: Server, body_of: Any) -> None:
    """Keys that SGLang reads or ignores, and LED's words where they mean something else."""
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"):
        plain = answer(server, path, body_of(path, {"custom_params": REGULAR}))
        for extra in (
            {"extra_body": {"top_k": 3}},
            {"metadata": {"sampler": "mine", "led": "on"}},
            {"sampling_params": {"top_k": 3}},
            {"samplers": ["top_k"], "ledger": 1},
            {"options": None, "parameters": [1]},
        ):
            body = body_of(path, {"custom_params": REGULAR}, **extra)
            assert answer(server, path, body) == plain


def test_transcriptions_refuse(server: Server) -> None:
    for key in ("custom_params", "custom_params[sampler]", "sampler", "led"):
        response = requests.post(
            server.url + "/v1/audio/transcriptions",
            files={"file": ("a.wav", b"RIFF")},
            data={key: "regular"},
            timeout=60,
        )
        assert_refused(response, key, "/v1/audio/transcriptions")
