"""One request through a gateway, and who has answered it: as it says itself, and in truth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import requests

from led_sglang.common.answers import ANSWERED_BY, SAMPLER_HEADER

PROMPT = "Visit every room once. Doors: 1-3 3-6 3-5 2-6 1-7 2-4 4-6 1-6 4-5 Start: 6"
_TOKENS = 12
_TIMEOUT_S = 60
# Ways to choose; `nothing` is one more.
CHOICES = ("custom_params", "model name")
ENDPOINTS = (
    "/generate",
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/messages",
    "/v1/responses",
)


@dataclass(frozen=True)
class Answer:
    """What came of a request.

    Attributes:
        status: of HTTP.
        truth: `led` where a server's count of think tokens grew, else `regular`; None without an
            answer.
        header: `x-led-sampler` as it arrived, whatever a gateway puts before its name.
        model: `model` of the answer.
        reported: the sampler in its metadata.
        sentence: of a refusal.
    """

    gateway: str
    endpoint: str
    streamed: bool
    way: str
    asked: str
    status: int
    truth: str | None
    header: str | None
    model: str | None
    reported: str | None
    sentence: str


def body_for(endpoint: str, name: str, way: str, sampler: str, *, stream: bool) -> dict[str, Any]:
    """A request that chooses a sampler in one of `CHOICES`, or not at all."""
    turns = f"<|im_start|>user\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n<think>\n"
    messages = [{"role": "user", "content": PROMPT}]
    model = f"{name}:{sampler}" if way == "model name" else name
    body: dict[str, Any] = {"model": model, "stream": stream}
    if endpoint == "/generate":
        sampling: dict[str, Any] = {"max_new_tokens": _TOKENS, "ignore_eos": True}
        if way == "custom_params":
            sampling["custom_params"] = {"sampler": sampler}
        return body | {"text": turns, "sampling_params": sampling}
    if way == "custom_params":
        body["custom_params"] = {"sampler": sampler}
    if endpoint == "/v1/completions":
        return body | {"prompt": turns, "max_tokens": _TOKENS}
    if endpoint == "/v1/responses":
        return body | {"input": PROMPT, "max_output_tokens": _TOKENS, "store": False}
    # SGLang has no place for it in a stream.
    if endpoint == "/v1/chat/completions" and not stream:
        body["return_meta_info"] = True
    return body | {"messages": messages, "max_tokens": _TOKENS}


def think_tokens(workers: Sequence[str]) -> int:
    """All that LED has sampled so far, over all servers."""
    total = 0
    for url in workers:
        info = requests.get(f"{url}/server_info", timeout=_TIMEOUT_S).json()
        total += sum(s["led"]["totals"]["think_tokens"] for s in info["internal_states"])
    return total


def ask(
    gateway: str,
    url: str,
    workers: Sequence[str],
    endpoint: str,
    name: str,
    way: str,
    sampler: str,
    *,
    stream: bool,
) -> Answer:
    """Send one request; nothing else may be asked of the servers meanwhile.

    Args:
        gateway, url: what is asked.
        workers: the servers behind it.
        name: of the model.
        way, sampler: see `body_for`; with the way `nothing` it is the servers' default.
    """
    before = think_tokens(workers)
    try:
        response = requests.post(
            url + endpoint,
            json=body_for(endpoint, name, way, sampler, stream=stream),
            headers={"authorization": "Bearer none", "anthropic-version": "2023-06-01"},
            timeout=_TIMEOUT_S,
        )
        status, text = response.status_code, response.text
        header = next(
            (value for key, value in response.headers.items() if key.endswith(SAMPLER_HEADER)), None
        )
    except requests.RequestException as error:
        status, text, header = 0, f"{type(error).__name__}: {error}", None
    answered = status == requests.codes.ok
    grew = think_tokens(workers) > before
    events = _events(text)
    return Answer(
        gateway,
        endpoint,
        stream,
        way,
        sampler,
        status,
        ("led" if grew else "regular") if answered else None,
        header,
        next((m for e in events if (m := _model(e)) is not None), None) if answered else None,
        next((s for e in events if (s := _reported(e)) is not None), None) if answered else None,
        "" if answered else text[:300],
    )


def _events(text: str) -> list[dict[str, Any]]:
    """The JSON objects of an answer, streamed or not."""
    found = []
    for line in [text, *text.splitlines()]:
        try:
            event = json.loads(line.removeprefix("data: "))
        except json.JSONDecodeError:
            continue
        if isinstance(event, dict):
            found.append(event)
    return found


def _model(event: dict[str, Any]) -> str | None:
    """`model` of a chunk, of an answer, or of what an event carries."""
    for holder in (event, event.get("message"), event.get("response")):
        if isinstance(holder, dict) and isinstance(holder.get("model"), str):
            return str(holder["model"])
    return None


def _reported(event: dict[str, Any]) -> str | None:
    """The sampler that a chunk's or an answer's metadata names."""
    choices = event.get("choices") or [event]
    holder = choices[0].get("meta_info") or {} if isinstance(choices[0], dict) else {}
    found = (holder.get(ANSWERED_BY) or {}).get("name")
    return None if found is None else str(found)
