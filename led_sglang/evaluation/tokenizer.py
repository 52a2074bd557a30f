"""The server's tokenizer: how long texts are, and what becomes of the think delimiters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from led_sglang.evaluation.endpoint import Endpoint, RequestRefused
from led_sglang.evaluation.grading.thinking import Delimiters
from led_sglang.evaluation.server import is_sglang
from led_sglang.presets import pick_preset

_TEXTS_AT_ONCE = 256


class ServerTokenizer:
    """Asks a server to tokenize; `delimiters` comes first and finds out whether it does."""

    def __init__(self, endpoint: Endpoint, model: str) -> None:
        self._endpoint, self._model = endpoint, model
        self._offered = False

    async def delimiters(self, server: Mapping[str, Any]) -> Delimiters:
        """The delimiters, from `Endpoint.server_info`; do completions begin within a thought?"""
        start, end = await self._delimiter_texts(server)
        if not is_sglang(server):  # others have a /tokenize of another form, or none
            return Delimiters(start, end)
        try:
            prompt = await self._text(await self._chat_tokens("?"), special=True)
        except RequestRefused:
            return Delimiters(start, end)
        self._offered = True
        opened: bool | None = prompt.rstrip().endswith(start)
        if opened and server["reasoning_parser"]:
            opened = None  # the parser takes the thought away, but for some that are cut off
        return Delimiters(start, end, opened)

    async def hides(self, delimiters: Delimiters) -> bool:
        """Whether completions may lack a delimiter, as they lack special tokens unless asked."""
        if not self._offered:
            return True
        for text in (delimiters.start, delimiters.end):
            tokens = (await self._tokenized(prompt=text))["tokens"]
            if tokens and text not in await self._text(tokens, special=False):
                return True
        return False

    async def count(self, text: str) -> int | None:
        """Number of tokens of a text, None where the server cannot tell."""
        if not text:
            return 0
        if not self._offered:
            return None
        return int((await self._tokenized(prompt=text))["count"])

    async def count_all(self, texts: Sequence[str]) -> list[int] | None:
        """Number of tokens of each text, None where the server cannot tell."""
        if not self._offered:
            return None
        counts: list[int] = []
        for first in range(0, len(texts), _TEXTS_AT_ONCE):
            batch = list(texts[first : first + _TEXTS_AT_ONCE])
            counts += (await self._tokenized(prompt=batch))["count"]
        return counts

    async def count_chat(self, prompt: str) -> int:
        """Number of tokens of one user turn in the chat template."""
        return len(await self._chat_tokens(prompt))

    async def _delimiter_texts(self, server: Mapping[str, Any]) -> tuple[str, str]:
        """Those that LED is set to; without LED those of the model's family."""
        led, model = server["led"], {"model_path": self._model}
        if led and led.get("think_start") and led.get("think_end"):
            return str(led["think_start"]), str(led["think_end"])
        if is_sglang(server):
            with suppress(RequestRefused):
                model = await self._endpoint.request("GET", "/model_info")
        preset = pick_preset(str(model.get("model_type")), str(model.get("model_path")))
        return preset.think_start, preset.think_end

    async def _chat_tokens(self, prompt: str) -> list[int]:
        body = {"model": self._model, "messages": [{"role": "user", "content": prompt}]}
        return list((await self._endpoint.request("POST", "/tokenize", body))["tokens"])

    async def _tokenized(self, prompt: str | list[str]) -> dict[str, Any]:
        body = {"model": self._model, "prompt": prompt, "add_special_tokens": False}
        return dict(await self._endpoint.request("POST", "/tokenize", body))

    async def _text(self, tokens: Sequence[int], *, special: bool) -> str:
        """The text of tokens, with or without the special ones."""
        body = {"model": self._model, "tokens": tokens, "skip_special_tokens": not special}
        return str((await self._endpoint.request("POST", "/detokenize", body))["text"])
