"""The last words of a start: where the server answers, with what, and a request to try."""

from __future__ import annotations

import json
import os
import shlex
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import requests
import urllib3

from led_sglang.common.address import first_state
from led_sglang.common.ports import listens

_LOOK_EVERY_S = 0.5
_ANSWER_TIMEOUT_S = 30
# Where the other commands look for the key as well.
_KEY_VARIABLE = "OPENAI_API_KEY"
_EVERY_ADDRESS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "[::1]"}


@dataclass(frozen=True)
class Address:
    """Where a server listens.

    Args:
        tls: whether it has a certificate.
        api_key: what its endpoints ask for; None where they ask for nothing.
    """

    host: str
    port: int
    tls: bool = False
    api_key: str | None = None

    @property
    def url(self) -> str:
        """Where a client on this machine finds it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        scheme = "https" if self.tls else "http"
        return f"{scheme}://{_EVERY_ADDRESS.get(self.host, host)}:{self.port}"


def announce_when_ready(address: Address, question: str, node_rank: str) -> None:
    """Print the block once the server of this very process answers; returns at once.

    Args:
        question: of the request to try.
        node_rank: of --nnodes; nodes but the first one answer no requests, and say so.
    """
    first = node_rank == "0"
    arguments = (os.getpid(), address, question if first else node_rank, time.monotonic())
    announce = _announce if first else _announce_node
    threading.Thread(target=announce, args=arguments, daemon=True).start()


def _announce_node(pid: int, address: Address, node_rank: str, start: float) -> None:
    while not listens(pid, address.port):
        time.sleep(_LOOK_EVERY_S)
    text = (
        f"led-sglang: node {node_rank} runs after {time.monotonic() - start:.0f} s; the first node "
        "answers requests"
    )
    print(text, file=sys.stderr, flush=True)


def _announce(pid: int, address: Address, question: str, start: float) -> None:
    # It is this machine's own server; a certificate names another host.
    urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    from led_sglang.patches.starting import is_starting

    # Another server may answer on the port already: only a listener of ours counts.
    info = None
    while info is None:
        time.sleep(_LOOK_EVERY_S)
        if listens(pid, address.port) and not is_starting():
            info = _ask(address, "GET", "/server_info")
    body = {"messages": [{"role": "user", "content": question}]}
    chats = _ask(address, "POST", "/tokenize", body) is not None
    text = ready_block(address, info, question, chats, time.monotonic() - start)
    print(text, file=sys.stderr, flush=True)


def ready_block(
    address: Address, info: Mapping[str, Any], question: str, chats: bool, seconds: float
) -> str:
    """What is printed.

    Args:
        info: its `/server_info`.
        question: of the request to try.
        chats: whether its model has a chat template.
        seconds: since the command began.
    """
    led = first_state(info).get("led") or {}
    settings = led.get("settings") or {}
    lines = [
        f"led-sglang: ready after {seconds:.0f} s; Ctrl-C ends it",
        f"  url      {address.url} (OpenAI's API: {address.url}/v1)",
        f"  model    {info.get('served_model_name') or info.get('model_path')}",
        f"  sampler  {settings.get('sampler', 'regular')} by default",
        f"  kernels  {led.get('kernels', 'none')}",
    ]
    if address.api_key:
        lines.append(f"  key      asked for; the request below takes it from {_KEY_VARIABLE}")
    role = info.get("disaggregation_mode") or "null"
    if role != "null":
        lines.append(f"  pair     its {role} server; a gateway in front of both answers")
        return "\n".join(lines)
    tokenizes = not info.get("skip_tokenizer_init")
    return "\n".join([*lines, "Try it:", _curl(address, question, chats, tokenizes)])


def _curl(address: Address, question: str, chats: bool, tokenizes: bool) -> str:
    """A command that works as it stands; a key is taken from the environment, and never shown."""
    # Every server answers to this name, and no served name is taken for an adapter's.
    body: dict[str, Any] = {"model": "default", "max_tokens": 64}
    if not tokenizes:
        path = "/generate"
        body = {"input_ids": [1, 2, 3], "sampling_params": {"max_new_tokens": 64}}
    elif chats:
        path = "/v1/chat/completions"
        body["messages"] = [{"role": "user", "content": question}]
    else:
        path = "/v1/completions"
        body["prompt"] = question
    parts = ["curl", *(["--insecure"] if address.tls else []), address.url + path]
    command = shlex.join([*parts, "-H", "content-type: application/json"])
    if address.api_key:
        command += f' -H "authorization: Bearer ${_KEY_VARIABLE}"'
    return f"{command} -d {shlex.quote(json.dumps(body, ensure_ascii=False))}"


def _ask(address: Address, method: str, path: str, body: Any = None) -> dict[str, Any] | None:
    """The answer's JSON object, empty where it is none; None where the answer is not 200."""
    headers = {"authorization": f"Bearer {address.api_key}"} if address.api_key else {}
    try:
        answer = requests.request(
            method,
            address.url + path,
            json=body,
            headers=headers,
            timeout=_ANSWER_TIMEOUT_S,
            verify=False,
        )
    except requests.RequestException:
        return None
    if answer.status_code != 200:
        return None
    try:
        content = answer.json()
    except requests.JSONDecodeError:
        return {}
    return content if isinstance(content, dict) else {}
