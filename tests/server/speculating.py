"""Seeded requests whose answers must not depend on drafts, and what of the answers is compared."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice
from typing import Any

import pytest
from harness import Body, Server

REQUESTS, BATCHES = 200, (1, 3, 8, 25, 40)
CONTEXT = {"tied": 4096, "trained": 2048}
LED: list[dict[str, Any]] = [
    {"trace": True},
    {"gate": "always"},
    {"candidates": 20, "depth": 4},
    {"preset": "release"},
    {"gate": "rate", "gate_rate": 0.5, "trace": True},
    {"gate": "entropy", "gate_entropy": 0.3, "final_norm": True},
    {"gate": "never", "behaviour_logprobs": True, "trace": True},
    {"think_only": False, "depth": 3},
]
FILTERS: list[dict[str, Any]] = [
    {"top_p": 0.95, "top_k": 20},
    {"top_p": 0.9, "min_p": 0.05},
    {},
]
COMMON = {"max_new_tokens": 32, "ignore_eos": True}
TOOL_START = "<tool_call>"


def seeded_bodies(
    prompts: list[Sequence[int]], think_ids: tuple[int, int], trained: bool
) -> list[Body]:
    """All gates, seeds and filters; half of them change phase on the way, some have a grammar."""
    start, end = map(str, think_ids)
    made: list[Body] = []
    for i in range(REQUESTS):
        custom: dict[str, Any] = {"led": LED[i % len(LED)]}
        if i % 25 == 24:
            custom = {"sampler": "dola", "dola": {"layers": "high"}}
        sampling = COMMON | FILTERS[i % 3] | {"temperature": [0.6, 0.8, 1.0, 0.0][i % 4]}
        sampling["sampling_seed"] = 1000 + i
        if i % 2:
            sampling["logit_bias"] = {end: 3.5, start: 2.5}
        if i % 20 == 7:
            sampling["regex"] = "(1 |2 |3 ){40}"
        if i % 20 == 12:
            sampling["regex"] = f"[a-z ]{{3}}{TOOL_START}[a-z ]{{400}}"
        if i % 20 in (6, 15):  # the one that comes first counts, whatever stands first here
            sampling |= {"ignore_eos": i % 40 < 20, "stop": ["3 ", "7 ", "z", "in"]}
        made.append((prompts[i % len(prompts)], custom, sampling))
    # The last drafts reach beyond the context.
    room = CONTEXT["trained" if trained else "tied"] - 8
    long = [*prompts[0]] * (room // len(prompts[0]) + 1)
    last = {"temperature": 0.6, "max_new_tokens": 6, "sampling_seed": 77, "ignore_eos": True}
    return [*made, (long[:room], {"led": {"gate": "always"}}, last)]


def in_batches(
    server: Server, bodies: list[Body], sizes: Sequence[int] = BATCHES
) -> list[dict[str, Any]]:
    """Answers to all, asked in batches of these sizes in turn."""
    answers: list[dict[str, Any]] = []
    left, sizes_in_turn = iter(bodies), cycle(sizes)
    while batch := list(islice(left, next(sizes_in_turn))):
        answers += server.generate_batch(batch, return_logprob=True)
    return answers


def assert_same_answers(
    server: Server, bodies: list[Body], expected: list[dict[str, Any]]
) -> float:
    """Compare answers with those of a server that does not draft; tokens a verification."""
    answers = in_batches(server, bodies)
    for index, (ours, theirs) in enumerate(zip(answers, expected, strict=True)):
        assert ours["output_ids"] == theirs["output_ids"], f"{index}: {bodies[index]}"
        assert_same_account(ours["meta_info"], theirs["meta_info"])
        assert_acceptance_shown(ours["meta_info"])
    seen = [answer["meta_info"] for answer in answers]
    tokens: int = sum(meta["completion_tokens"] for meta in seen)
    # An answer that its first token ends is never verified.
    verified: int = sum(meta.get("spec_verify_ct", 0) for meta in seen)
    print(f"{len(answers)} equal, {tokens / verified:.2f} tokens a verification")
    return tokens / verified


def assert_acceptance_shown(meta: dict[str, Any]) -> None:
    """How the drafts of a request fared, beside LED's numbers where it has them."""
    tokens, verified = meta["completion_tokens"], meta.get("spec_verify_ct", 0)
    assert ("spec_accept_length" in meta) == (verified > 0) == (tokens > 1)
    if verified:
        assert meta["spec_accept_length"] == pytest.approx(tokens / verified)
        # The prefill's token, then in each verification what was drafted and one behind it; the
        # answer may end within the last of them.
        assert tokens <= 1 + verified + meta["spec_num_correct_drafts"]
        assert meta["spec_num_correct_drafts"] <= meta["spec_num_proposed_drafts"]


def assert_same_account(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    led, without = ours.get("led"), theirs.get("led")
    assert (led is None) == (without is None)
    if led is not None and without is not None:
        counts = ("think_tokens", "explored_tokens", "depth_histogram", "first_explored")
        assert [led[key] for key in counts] == [without[key] for key in counts]
        assert led["mean_p1"] == pytest.approx(without["mean_p1"], abs=1e-4)
    for key in ("led_trace", "led_behaviour_logprobs"):
        assert (key in ours) == (key in theirs)
    for one, other in zip(ours.get("led_trace", ()), theirs.get("led_trace", ()), strict=True):
        assert one.keys() == other.keys()
        for key in {"token_id", "phase", "explored", "depth", "candidate_ids"} & one.keys():
            assert one[key] == other[key]
        for key in {"p1", "behaviour_probs"} & one.keys():
            assert one[key] == pytest.approx(other[key], abs=1e-4)
    for one, other in zip(
        ours.get("led_behaviour_logprobs", ()),
        theirs.get("led_behaviour_logprobs", ()),
        strict=True,
    ):
        assert (one is None) == (other is None)
        assert one is None or one == pytest.approx(other, abs=1e-3)
    logprobs = [[entry[0] for entry in m["output_token_logprobs"]] for m in (ours, theirs)]
    assert logprobs[0] == pytest.approx(logprobs[1], abs=1e-3)
