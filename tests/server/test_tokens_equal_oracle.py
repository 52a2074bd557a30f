"""Greedy tokens of a real server equal an independent oracle, every variant mixed in one batch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from harness import Server, serve
from oracle import Oracle, Verdict

pytestmark = pytest.mark.served_models("tied", "trained")

GATES = ("always", "confidence")
DEPTHS = (1, 2, 4, 8)
CANDIDATES = (1, 8, 20)
LAYERS = ("paper", "release")
NEW_TOKENS = 64
# The trained model takes turns: each setting with every fourth prompt.
TURNS = 4


@pytest.fixture(scope="module")
def server(model_path: Path) -> Iterator[Server]:
    with serve(model_path, "--dtype", "float32", "--max-running-requests", "240") as running:
        yield running


@pytest.fixture(scope="module")
def oracle(model_path: Path) -> Oracle:
    return Oracle(model_path)


def think_flags(tokens: Sequence[int], start: int, end: int) -> list[bool]:
    """Per token, whether it was sampled while thinking, for a prompt that has opened it."""
    flags, thinking = [], True
    for token in tokens:
        flags.append(thinking)
        thinking = token == start or (thinking and token != end)
    return flags


def test_tokens_equal_the_oracle(
    server: Server,
    oracle: Oracle,
    prompts: list[Sequence[int]],
    think_ids: tuple[int, int],
    trained: bool,
) -> None:
    settings = [
        {"gate": g, "depth": d, "candidates": k, "layers": layers, "final_norm": norm}
        for g, d, k, layers, norm in itertools.product(
            GATES, DEPTHS, CANDIDATES, LAYERS, (False, True)
        )
    ]
    cases = [
        (prompt, led)
        for i, led in enumerate(settings)
        for prompt in (prompts[i % TURNS :: TURNS] if trained else prompts)
    ]
    sampling = {"temperature": 0, "max_new_tokens": NEW_TOKENS, "ignore_eos": True}
    answers = []
    for first in range(0, len(cases), 240):
        part = [(prompt, {"led": led}, sampling) for prompt, led in cases[first : first + 240]]
        answers += server.generate_batch(part)
    total = Verdict(differences=[])
    # Prompt by prompt, whose settings often end in the same tokens: the oracle reads those once.
    for (prompt, led), answer in sorted(
        zip(cases, answers, strict=True), key=lambda pair: list(pair[0][0])
    ):
        tokens = answer["output_ids"]
        thinks = think_flags(tokens, *think_ids)
        assert answer["meta_info"]["led"]["think_tokens"] == sum(thinks)
        total.add(oracle.check_greedy(prompt, tokens, thinks, **led))
    print(f"{total.steps} steps, {total.near_ties} near ties")
    assert total.differences == []
    assert total.steps == len(cases) * NEW_TOKENS
    assert total.near_ties < 0.005 * total.steps
