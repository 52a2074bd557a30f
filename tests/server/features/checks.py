"""A completion against the oracle, and proof that a plain server's would not have passed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness import Server
from oracle import Adjust, Oracle

THINK_START, THINK_END, TURN_END = 259, 260, 258

# Explores at every think step, so that LED's tokens differ from the final layer's early.
ALWAYS: dict[str, Any] = {"gate": "always", "depth": 8, "candidates": 8}
GREEDY: dict[str, Any] = {"temperature": 0, "ignore_eos": True}


def think_flags(prompt: Sequence[int], tokens: Sequence[int]) -> list[bool]:
    """Per token, whether it was sampled while thinking: the last delimiter before it decides."""
    last = [t for t in prompt if t in (THINK_START, THINK_END)]
    thinking = bool(last) and last[-1] == THINK_START
    flags = []
    for token in tokens:
        flags.append(thinking)
        thinking = token == THINK_START or (thinking and token != THINK_END)
    return flags


def assert_led_tokens(
    oracle: Oracle,
    prompt: Sequence[int],
    tokens: Sequence[int],
    adjust: Adjust | None = None,
    **led: Any,
) -> None:
    """Every token is the oracle's (near ties aside), and some are not the final layer's."""
    told_apart = compare_led_tokens(oracle, prompt, tokens, adjust, **led)
    assert told_apart > 0, "this completion cannot tell LED from plain decoding"


def compare_led_tokens(
    oracle: Oracle,
    prompt: Sequence[int],
    tokens: Sequence[int],
    adjust: Adjust | None = None,
    **led: Any,
) -> int:
    """Check every token; how many of them the final layer alone would not have picked."""
    led = ALWAYS | led
    flags = think_flags(prompt, tokens)
    verdict = oracle.check_greedy(prompt, tokens, flags, adjust, **led)
    assert not verdict.differences, verdict.differences[:4]
    assert verdict.near_ties <= 1
    plain = oracle.check_greedy(prompt, tokens, flags, adjust, **led | {"gate": "never"})
    return len(plain.differences or [])


def on_replica(server: Server, rank: int, prompt: Sequence[int], **sampling: Any) -> dict[str, Any]:
    """A LED completion by the data-parallel rank named."""
    body = {
        "input_ids": list(prompt),
        "routed_dp_rank": rank,
        "sampling_params": {"custom_params": {"led": ALWAYS}, **sampling},
    }
    response = server.post("/generate", body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer
