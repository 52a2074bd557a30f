"""A running SGLang server, seen from a client: tokens, texts, completions, LED's settings."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import requests

from led_sglang.common import address
from led_sglang.common.address import ServerError

_CONNECT_TIMEOUT_S = 10


class ServerClient:
    """Talks to a server's native endpoints.

    Args:
        base_url: such as `http://127.0.0.1:30000`, with or without a trailing `/v1`.
        timeout_s: seconds to wait for one answer; a long completion takes minutes.

    A server that was started with `--api-key` gets the key from OPENAI_API_KEY.

    Raises:
        ServerError: `base_url` is no address.
    """

    def __init__(self, base_url: str, timeout_s: float = 3600.0) -> None:
        self.base_url = address.server_url(base_url)
        self._timeout = (_CONNECT_TIMEOUT_S, timeout_s)
        self._session = requests.Session()
        if key := os.environ.get("OPENAI_API_KEY"):
            self._session.headers["Authorization"] = f"Bearer {key}"

    def model_path(self) -> str:
        """Name or folder of the served model."""
        return str(self._ask("GET", "/model_info")["model_path"])

    def server_info(self) -> dict[str, Any]:
        """The whole of `/server_info`; a ServerError where it is no SGLang server's."""
        answer = self._send("GET", "/server_info")
        return address.server_info(self.base_url, answer.status_code, answer.text)

    def led_settings(self) -> dict[str, Any] | None:
        """LED's settings (`/server_info`), or None from a server without the plugin."""
        return self._led("settings")

    def led_totals(self) -> dict[str, Any] | None:
        """LED's totals since the server started, or None from a server without the plugin."""
        return self._led("totals")

    def context_length(self) -> int | None:
        """Tokens that a prompt and its answer may have together; None where it is not told."""
        models = self._ask("GET", "/v1/models").get("data") or [{}]
        length = models[0].get("max_model_len")
        return None if length is None else int(length)

    def chat_tokens(self, prompt: str) -> list[int]:
        """Token ids of one user turn in the model's chat template, ready to be answered."""
        body = {"messages": [{"role": "user", "content": prompt}]}
        return list(self._ask("POST", "/tokenize", body)["tokens"])

    def tokens(self, text: str) -> list[int]:
        """Token ids of a text as it stands."""
        body = {"prompt": text, "add_special_tokens": False}
        return list(self._ask("POST", "/tokenize", body)["tokens"])

    def texts(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        """The text of each sequence of token ids, special tokens included."""
        if not sequences:
            return []
        body = {"tokens": [list(s) for s in sequences], "skip_special_tokens": False}
        return list(self._ask("POST", "/detokenize", body)["text"])

    def generate(self, input_ids: Sequence[int], sampling: Mapping[str, Any]) -> dict[str, Any]:
        """One completion, the whole answer of `/generate`; `sampling` holds `custom_params` too."""
        body = {"input_ids": list(input_ids), "sampling_params": dict(sampling)}
        return self._ask("POST", "/generate", body)

    def chat(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The whole answer of `/v1/chat/completions` to a request."""
        return self._ask("POST", "/v1/chat/completions", dict(body))

    def _led(self, part: str) -> dict[str, Any] | None:
        return (address.first_state(self.server_info()).get("led") or {}).get(part)

    def _ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        answer, url = self._send(method, path, body), self.base_url + path
        if answer.status_code != 200:
            raise ServerError(f"{url} answered {answer.status_code}: {_message(answer)}")
        try:
            content = answer.json()
        except requests.JSONDecodeError:
            content = None
        if not isinstance(content, dict):
            raise ServerError(f"{url} did not answer with a JSON object: is it an SGLang server?")
        return content

    def _send(self, method: str, path: str, body: Any = None) -> requests.Response:
        try:
            return self._session.request(
                method, self.base_url + path, json=body, timeout=self._timeout
            )
        except requests.RequestException as error:
            raise address.unreachable(self.base_url, error) from None


def _message(answer: requests.Response) -> str:
    """The server's own words where it sent some."""
    try:
        content = answer.json()
    except requests.JSONDecodeError:
        return answer.text[:300]
    if isinstance(content, dict):
        error = content.get("error", content)
        if isinstance(error, dict) and "message" in error:
            return str(error["message"])
    return str(content)[:300]
