"""A server with scripted completions: answers as SGLang does, and fails when told to.

`python fake_engine.py PORT '{"delay": 0.01, ...}'` runs it alone. A completion depends on the
problem, the seed, the sampler and the temperature only, so an interrupted run and an uninterrupted
one get the same answers.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

MODEL = "fake/model"
LED_SETTINGS = {
    "sampler": "led",
    "depth": 8,
    "candidates": 8,
    "layers": "paper",
    "think_only": True,
    "captured_layers": [11, 10, 9],
    "preset": "qwen3",
}


OPENAI_KEYS = {"model", "messages", "max_tokens", "temperature", "top_p", "seed"}


@dataclass
class FakeEngine:
    """Behaviour of the server; the counters say what it was asked.

    Attributes:
        answers: gold answers by a piece of the prompt, for completions that are to be right.
        delay: seconds of a completion.
        failures: HTTP statuses of the first requests, one each.
        garbage: number of first completions that are not JSON.
        plugin: show LED in /server_info.
        never_closes: every completion thinks until it is cut off.
        copies: ignore the seed.
        tokenizes: offer /tokenize and /detokenize.
        dtype: shown in /server_info.
        says: this, whatever is asked.
        enabled: samplers shown in /server_info.
        down_after: close the connection of every completion after so many.
        special: texts that are special tokens, which answers lack unless asked for.
        think_start, think_end: delimiters, as /server_info shows them.
        answer_start: what the model writes behind think_end, before its answer.
        opened: the chat template has opened the thought.
        context: tokens (here words) of prompt and completion together, shown in /v1/models.
        sure: the text does not depend on the seed, LED's draws do.
        reasoning_parser: shown in /server_info.
        model_type: shown in /model_info, which is not there without it.
        gateway: what one in front of the server does: `drops` custom_params, or also `strips` from
            answers what says who made them.
        openai: another server: OpenAI's API and no more, strict about keys.
        names: offer samplers by the model's name.
    """

    answers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    failures: list[int] = field(default_factory=list)
    enabled: tuple[str, ...] = ("led", "regular")
    garbage: int = 0
    plugin: bool = True
    never_closes: bool = False
    copies: bool = False
    tokenizes: bool = True
    dtype: str = "float32"
    says: str | None = None
    down_after: int | None = None
    special: tuple[str, ...] = ()
    think_start: str = "<think>"
    think_end: str = "</think>"
    answer_start: str = ""
    opened: bool = True
    context: int | None = None
    sure: bool = False
    reasoning_parser: str | None = None
    model_type: str | None = None
    gateway: str = ""
    openai: bool = False
    names: bool = False
    vocabulary: list[str] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)
    in_flight: int = 0
    most_in_flight: int = 0

    def application(self) -> web.Application:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_get("/v1/models", self._models)
        if not self.openai:
            app.router.add_get("/server_info", self._info)
        app.router.add_get("/health", self._health)
        app.router.add_post("/v1/chat/completions", self._chat)
        if self.model_type:
            app.router.add_get("/model_info", self._model_info)
        if self.tokenizes and not self.openai:
            app.router.add_post("/tokenize", self._tokenize)
            app.router.add_post("/detokenize", self._detokenize)
        return app

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def _models(self, request: web.Request) -> web.Response:
        names = [MODEL, *(f"{MODEL}:{name}" for name in self.enabled if self.names)]
        cards = [{"id": name, "max_model_len": self.context} for name in names]
        return web.json_response({"object": "list", "data": cards})

    async def _model_info(self, request: web.Request) -> web.Response:
        return web.json_response({"model_type": self.model_type, "model_path": MODEL})

    async def _info(self, request: web.Request) -> web.Response:
        settings = LED_SETTINGS | {
            "enabled": list(self.enabled),
            "think_start": self.think_start,
            "think_end": self.think_end,
        }
        state = {"led": {"settings": settings, "totals": {}}} if self.plugin else {}
        return web.json_response(
            {"version": "0.5.23", "model_path": MODEL, "dtype": self.dtype, "tp_size": 1}
            | {"reasoning_parser": self.reasoning_parser}
            | {"startup_time": 1.0, "internal_states": [state]}
        )

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        if "messages" in body:
            tokens = self._tokens(self._templated(body["messages"]))
            return web.json_response({"tokens": tokens, "count": len(tokens)})
        if isinstance(body["prompt"], list):
            lists = [self._tokens(text) for text in body["prompt"]]
            return web.json_response({"tokens": lists, "count": list(map(len, lists))})
        tokens = self._tokens(body["prompt"])
        return web.json_response({"tokens": tokens, "count": len(tokens)})

    async def _detokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        text = "".join(self.vocabulary[token] for token in body["tokens"])
        return web.json_response({"text": self._shown(text, body)})

    def _tokens(self, text: str) -> list[int]:
        """A token a word, and one a delimiter or special token."""
        apart = self.special or (self.think_start, self.think_end)
        words = [
            word
            for part in re.split(f"({_any_of(apart)})", text)
            for word in re.findall(r"\s*\S+|\s+", part)
        ]
        self.vocabulary += [word for word in dict.fromkeys(words) if word not in self.vocabulary]
        return [self.vocabulary.index(word) for word in words]

    def _shown(self, text: str, body: Mapping[str, Any]) -> str:
        hidden = self.special and body.get("skip_special_tokens", True)
        return re.sub(_any_of(self.special), "", text) if hidden else text

    def _templated(self, messages: Any) -> str:
        prompt = f"<|im_start|>user\n{messages[0]['content']}<|im_end|>\n<|im_start|>assistant\n"
        return f"{prompt}{self.think_start}\n" if self.opened else prompt

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.delay)
            if self.failures:
                status = self.failures.pop(0)
                return web.json_response(
                    {"message": f"scripted {status}"}, status=status, headers={"Retry-After": "0"}
                )
            if self.garbage:
                self.garbage -= 1
                return web.Response(text="<html>a proxy's page")
            if self.down_after is not None and len(self.requests) > self.down_after:
                assert request.transport is not None
                request.transport.abort()
            if self.openai and not self.names and not set(body) <= OPENAI_KEYS:
                return web.json_response({"error": {"message": "unknown keys"}}, status=400)
            tokens = len(self._tokens(self._templated(body["messages"]))) + body["max_tokens"]
            if self.context is not None and tokens > self.context:
                return web.json_response({"message": f"{tokens} tokens"}, status=400)
            return web.json_response(self._answer(body))
        finally:
            self.in_flight -= 1

    def _answer(self, body: Mapping[str, Any]) -> dict[str, Any]:
        prompt = body["messages"][0]["content"]
        custom = body.get("custom_params") or {"sampler": "regular"}
        if self.gateway:
            custom = {"sampler": body["model"].partition(":")[2] or "led"}
        sampler = custom["sampler"]
        seed = 0 if self.copies else body["seed"]
        name = json.dumps([prompt, seed, custom, body["temperature"]])
        self.asked[json.dumps([prompt, body["seed"], sampler, body["temperature"]])] += 1
        draw = drawn = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
        if self.sure:
            draw = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8])
        gold = next((a for piece, a in self.answers.items() if piece in prompt), "0")
        # Problems differ; LED is right a little more often, high temperatures a little less.
        ease = hashlib.sha256(prompt.encode()).digest()[0] / 255
        chance = ease**2 + 0.06 * (sampler == "led") - 0.1 * body["temperature"]
        right = (draw >> 8) % 10_000 < 10_000 * chance
        length = 20 + draw % 200
        thought = f"Draw {draw}. " + "let me think about it " * (length // 5)
        thought = thought if self.opened else self.think_start + thought
        finish, content = "stop", f"{thought}{self.think_end}{self.answer_start}\n\n"
        if self.never_closes or draw % 23 == 0:
            content, finish = thought, "length"
        elif draw % 19 == 0:
            content += "I cannot say."
        else:
            wrong = str(1_000_003 + draw % 5)
            content += f"So it is $\\boxed{{{gold if right else wrong}}}$."
        if self.says is not None:
            content, finish = self.says, "stop"
        led = None
        if sampler == "led" and self.plugin:
            depths = Counter(
                1 + int(8 * ((drawn * step) % 997 / 997) ** 2)
                for step in range(drawn % 5 if self.sure else length // 4)
            )
            led = {
                "think_tokens": length,
                "explored_tokens": depths.total(),
                "depth_histogram": {str(depth): depths[depth] for depth in sorted(depths)},
                "mean_p1": 0.99 if self.sure else 0.75,
            }
        meta_info: dict[str, Any] = {"led": led} if led else {}
        if self.plugin:
            meta_info["sampler"] = {"name": sampler, "settings": {"depth": 8}}
        shown = {} if self.openai or self.gateway == "strips" else {"meta_info": meta_info}
        return {
            "model": MODEL,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": self._shown(content, body)},
                    "finish_reason": finish,
                    **shown,
                }
            ],
            "usage": {"prompt_tokens": 10, "completion_tokens": length + 12},
        }


def _any_of(texts: Sequence[str]) -> str:
    return "|".join(map(re.escape, texts))


if __name__ == "__main__":
    web.run_app(
        FakeEngine(**json.loads(sys.argv[2])).application(),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        print=lambda *_: None,
        access_log=None,
    )
