"""The endpoint: an OpenAI-compatible server, asked over HTTP with retries.

Only the transport is retried (no connection, a broken answer, HTTP 429 and 5xx); whatever a
request says wrongly fails at once with the server's own message.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from led_sglang.common.address import ServerError, server_info, unreachable
from led_sglang.common.answers import SAMPLER_HEADER, Answerer
from led_sglang.evaluation import EvaluationError
from led_sglang.evaluation.server import UNKNOWN, described
from led_sglang.methods.registry import sampler_names

_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
_LONGEST_WAIT_S = 60.0
_NO_ANSWER = (aiohttp.ClientError, TimeoutError, ConnectionError)
# A busy scheduler may take its time.
_FIRST_CONTACT = aiohttp.ClientTimeout(total=60, sock_connect=10)


@dataclass(frozen=True)
class ServedModel:
    """A model of an endpoint.

    Attributes:
        name: by which it is asked.
        context: tokens that prompt and completion may have together; None where it is not told.
        by_sampler: names that choose a sampler, by sampler, where the endpoint lists them.
    """

    name: str
    context: int | None
    by_sampler: Mapping[str, str]


@dataclass(frozen=True)
class Completion:
    """One answer of the server.

    Attributes:
        content: text of the message.
        reasoning: its thinking, where the server separates it.
        finish_reason: "stop", "length", ...
        tokens: number of generated ones.
        led: the statistics `meta_info.led`, where there are any.
        answerer: who made it.
    """

    content: str
    reasoning: str | None
    finish_reason: str
    tokens: int
    prompt_tokens: int
    led: Mapping[str, Any] | None
    answerer: Answerer


class RequestRefused(EvaluationError):
    """The server understood the request and will not serve it (HTTP 4xx)."""


class _TransportError(Exception):
    """The request may succeed if repeated."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


class Endpoint:
    """Client of one server.

    Args:
        url: of the server, as `common.address.server_url` writes it.
        attempts: how often a request is tried.
        timeout: seconds that one try may take, generation included.
        first_wait: seconds before the second try; each further wait is about twice as long.
    """

    def __init__(
        self, url: str, *, attempts: int = 8, timeout: float = 7200.0, first_wait: float = 1.0
    ) -> None:
        self.url = url
        self._attempts, self._first_wait = attempts, first_wait
        self._timeout = aiohttp.ClientTimeout(total=timeout, sock_connect=20)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Endpoint:
        key = os.environ.get("OPENAI_API_KEY")
        self._session = aiohttp.ClientSession(
            timeout=self._timeout,
            connector=aiohttp.TCPConnector(limit=0),  # the runner bounds concurrency
            headers={"Authorization": f"Bearer {key}"} if key else {},
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()

    async def model(self, wanted: str | None) -> ServedModel:
        """The model that is asked.

        Args:
            wanted: its name; None: the first that the endpoint lists and that chooses no sampler. A
                gateway may list names in any order.
        """
        answer = await self.request("GET", "/v1/models")
        entries = [entry for entry in answer.get("data", []) if "id" in entry]
        names = [str(entry["id"]) for entry in entries]
        if not names:
            raise EvaluationError(f"{self.url} lists no model")
        if wanted is not None and wanted not in names:
            raise EvaluationError(
                f"{self.url} does not serve the model {wanted!r}; it serves {', '.join(names)}"
            )
        contexts = [entry.get("max_model_len") for entry in entries]  # none for an adapter
        own = [name for name in names if name.rpartition(":")[0] not in names]
        name = wanted or own[0]
        by_sampler = {s: f"{name}:{s}" for s in sampler_names() if f"{name}:{s}" in names}
        return ServedModel(name, next((c for c in contexts if c is not None), None), by_sampler)

    async def server_info(self) -> dict[str, Any]:
        """The server as `server.described` shows it; as `server.UNKNOWN` where it is not SGLang's.

        The first request of a run: an address where nobody answers is not asked again.

        Raises:
            ServerError: nobody answers, or neither SGLang nor OpenAI's API.
            EvaluationError: it is SGLang's, and out of order.
        """
        try:
            status, text, _ = await self._exchange("GET", "/server_info", timeout=_FIRST_CONTACT)
        except _NO_ANSWER as error:
            raise unreachable(self.url, error) from None
        if status in _RETRIED:
            return described(await self.request("GET", "/server_info"))
        try:
            return described(server_info(self.url, status, text))
        except ServerError:
            if await self._lists_models():
                return UNKNOWN
            raise

    async def _lists_models(self) -> bool:
        """Whether OpenAI's API is served here."""
        try:
            status, text, _ = await self._exchange("GET", "/v1/models", timeout=_FIRST_CONTACT)
            return status == 200 and isinstance(json.loads(text)["data"], list)
        except (*_NO_ANSWER, ValueError, KeyError, TypeError):
            return False

    async def complete(self, body: Mapping[str, Any]) -> Completion:
        """One chat completion; an EvaluationError as in `request`."""
        return await self.request("POST", "/v1/chat/completions", body, _parse_completion)

    async def request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, parse: Any = None
    ) -> Any:
        """The JSON of an answer, `parse`d where that is given.

        Raises:
            RequestRefused: the server will not serve it.
            EvaluationError: still failing after the last try.
        """
        wait = self._first_wait
        for attempt in range(1, self._attempts + 1):
            try:
                answer, headers = await self._once(method, path, body)
                return parse(answer, headers) if parse else answer
            except _TransportError as error:
                if attempt == self._attempts:
                    raise EvaluationError(
                        f"{self.url}{path} failed {attempt} times, last with: {error}"
                    ) from None
                # Half of it is random, so that many requests do not come back at once.
                pause = error.wait if error.wait is not None else wait * random.uniform(0.5, 1)
                await asyncio.sleep(min(pause, _LONGEST_WAIT_S))
                wait = min(wait * 2, _LONGEST_WAIT_S)
        raise AssertionError("unreachable: the last attempt raises")

    async def _once(
        self, method: str, path: str, body: Mapping[str, Any] | None
    ) -> tuple[Any, Mapping[str, str]]:
        try:
            status, text, headers = await self._exchange(method, path, body)
        except _NO_ANSWER as error:
            raise _TransportError(str(error) or type(error).__name__) from None
        if status in _RETRIED:
            wait = _seconds(headers.get("Retry-After"))
            raise _TransportError(f"HTTP {status}: {text[:300]}", wait)
        if status != 200:
            raise RequestRefused(f"{self.url}{path}: HTTP {status}: {text[:1000]}")
        try:
            return json.loads(text), headers
        except ValueError:
            raise _TransportError(f"an answer that is not JSON: {text[:200]!r}") from None

    async def _exchange(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        timeout: aiohttp.ClientTimeout | None = None,
    ) -> tuple[int, str, Mapping[str, str]]:
        """Status, text and headers of one answer."""
        assert self._session is not None
        async with self._session.request(
            method, self.url + path, json=body, timeout=timeout or self._timeout
        ) as response:
            return response.status, await response.text(errors="replace"), response.headers


def _seconds(retry_after: str | None) -> float | None:
    try:
        return max(0.0, float(retry_after)) if retry_after else None
    except ValueError:
        return None


def _parse_completion(answer: Any, headers: Mapping[str, str]) -> Completion:
    try:
        choice = answer["choices"][0]
        message, usage = choice["message"], answer["usage"]
        completion = Completion(
            content=message.get("content") or "",
            # vLLM's name for it is the shorter one.
            reasoning=message.get("reasoning_content") or message.get("reasoning"),
            finish_reason=str(choice["finish_reason"]),
            tokens=int(usage["completion_tokens"]),
            prompt_tokens=int(usage["prompt_tokens"]),
            led=(choice.get("meta_info") or {}).get("led"),
            answerer=Answerer(
                choice.get("meta_info"), headers.get(SAMPLER_HEADER), answer.get("model")
            ),
        )
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise _TransportError(f"an answer that is no chat completion ({error!r})") from None
    if completion.finish_reason == "abort":
        raise _TransportError("the server aborted the request")
    return completion
