"""SoftThinking runs freely beside a transformers loop: the same tokens and mixtures to the end.

On the trained model: in a random one rounding grows fourfold a step, see `SoftOracle.run`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import Server, serve
from soft_oracle import SoftOracle

from led_sglang.kernels.reference.soft_thinking import SoftReference

pytestmark = pytest.mark.served_models("trained")

METHODS = ("soft-thinking", "soft-thinking-gumbel")
NEW_TOKENS = 64
# No top_p: a token that enters or leaves the nucleus by rounding makes another mixture.
OPTIONS: dict[str, Any] = {"temperature": 0.7, "top_k": 20}
# A step at which the loops in float32 and float64 differ by more cannot tell right from wrong; at
# the others a right server, which rounds in its own way, differs by less than the second.
PARTED, RIGHT = 1e-4, 2e-3


@pytest.fixture(scope="module")
def server(model_path: Path) -> Iterator[Server]:
    flags = ("--sampler", METHODS[0], "--enable-samplers", METHODS[1])
    with serve(model_path, "--dtype", "float32", *flags) as running:
        yield running


def weights(entry: SoftReference | dict[str, Any]) -> dict[int, float]:
    if isinstance(entry, dict):
        return dict(zip(entry["ids"], entry["weights"], strict=True))
    return dict(zip(entry.ids, entry.weights.tolist(), strict=True))


def differ(ours: dict[int, float], theirs: dict[int, float], by: float) -> bool:
    return any(abs(ours.get(i, 0.0) - theirs.get(i, 0.0)) > by for i in ours.keys() | theirs.keys())


@pytest.mark.parametrize("method", METHODS)
def test_free_runs_equal_the_oracle(
    server: Server,
    model_path: Path,
    prompts: list[Sequence[int]],
    think_ids: tuple[int, int],
    method: str,
) -> None:
    start, end = think_ids
    loops = [SoftOracle(model_path, dtype) for dtype in (torch.float32, torch.float64)]
    answers = server.generate_batch(
        [
            (
                prompt,
                {"sampler": method, method: {"trace": True}},
                OPTIONS | {"max_new_tokens": NEW_TOKENS, "sampling_seed": 100 + i},
            )
            for i, prompt in enumerate(prompts)
        ]
    )
    tokens = steps = compared = 0
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        single, double = (
            loop.run(
                prompt,
                NEW_TOKENS,
                think_start=start,
                think_end=end,
                seed=100 + i,
                noisy=method == "soft-thinking-gumbel",
                **OPTIONS,
            )
            for loop in loops
        )
        ours, trace = answer["output_ids"], answer["meta_info"]["soft_thinking_trace"]
        assert ours == double.tokens[: len(ours)], f"prompt {i}"
        tokens += len(ours)
        for index, entry in enumerate(trace):
            assert (entry["phase"] == "think") == (index in double.steps)
            if index not in double.steps:
                continue
            steps += 1
            theirs = weights(double.steps[index])
            if not differ(weights(single.steps[index]), theirs, PARTED):
                compared += 1
                assert not differ(weights(entry), theirs, RIGHT), f"prompt {i}, step {index}"
    print(f"{method}: {tokens} tokens equal, weights equal in {compared} of {steps} soft steps")
    print("(in the others the two loops differ)")
    assert tokens > 25 * len(prompts)
    assert compared > 0.9 * steps
