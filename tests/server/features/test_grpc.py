"""SGLang's native gRPC server goes through the same front end: checks, tokens, statistics."""

from __future__ import annotations

import json
from typing import Any

import grpc
from harness import Server

from .checks import ALWAYS

METHOD = "/sglang.runtime.v1.SglangService/ChatComplete"
BODY: dict[str, Any] = {
    "model": "default",
    "messages": [{"role": "user", "content": "Tell me a story about a fox."}],
    "temperature": 0,
    "max_tokens": 16,
    "ignore_eos": True,
    "return_meta_info": True,
    "return_token_ids": True,
}


def call(port: int, body: dict[str, Any]) -> dict[str, Any]:
    """One unary call; the message's only field is the JSON text of an OpenAI body."""

    def encode(text: bytes) -> bytes:
        length, size = len(text), b""
        while length > 127:
            size += bytes([length & 127 | 128])
            length >>= 7
        return b"\x0a" + size + bytes([length]) + text

    def decode(message: bytes) -> dict[str, Any]:
        start, end = message.index(b"{"), message.rindex(b"}") + 1
        answer: dict[str, Any] = json.loads(message[start:end])
        return answer

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        ask = channel.unary_unary(METHOD, request_serializer=encode, response_deserializer=decode)
        answer: dict[str, Any] = ask(json.dumps(body).encode(), timeout=120)
        return answer


def test_same_tokens_as_over_http(server: Server, grpc_port: int) -> None:
    choices = []
    for custom in ({"led": ALWAYS}, {"sampler": "regular"}):
        body = BODY | {"custom_params": custom}
        ours = call(grpc_port, body)["choices"][0]
        theirs = server.post("/v1/chat/completions", body).json()["choices"][0]
        assert ours["response_token_ids"] == theirs["response_token_ids"]
        counts = [c["meta_info"].get("led", {}).get("depth_histogram") for c in (ours, theirs)]
        assert counts[0] == counts[1]
        choices.append(ours)
    assert choices[0]["response_token_ids"] != choices[1]["response_token_ids"]
    assert choices[0]["meta_info"]["led"]["explored_tokens"] == 16


def test_bad_parameters_are_refused(server: Server, grpc_port: int) -> None:
    for extra, sentence in (
        ({"custom_params": {"led": {"candidates": 65}}}, "candidates"),
        ({"custom_params": "led"}, "custom_params must be an object"),
        ({"sampler": "regular"}, "sampler at the top level is not read by gRPC"),
        ({"extra_body": {"custom_params": {}}}, "custom_params in extra_body is not read by gRPC"),
        ({"response_format": "json"}, "response_format must be an object"),
    ):
        try:
            text = json.dumps(call(grpc_port, BODY | extra))
        except grpc.RpcError as error:
            text = str(error.details())
        assert sentence in text
    assert call(grpc_port, BODY)["choices"][0]["response_token_ids"]
