"""After soft thinking, the answer is the engine's own decoding, bit for bit.

The soft requests here mix a single embedding in every step, so their KV cache is that of the tokens
they emitted. The engine then decodes the same: `regular` requests, led through the same thought.
What follows wide mixtures is compared with a transformers loop in test_soft_free_runs.py and
test_soft_thinking_on_server.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import deterministic_plugin
import pytest
from extra_plugin import plugin_environment
from forced_tokens import ForcedTokens
from harness import Body, Server, serve

pytestmark = pytest.mark.served_models("tied", "trained")

# The noisy method draws the one embedding that it mixes; the other takes the likeliest token's.
METHODS: dict[str, dict[str, Any]] = {
    "soft-thinking": {"max_topk": 1},
    "soft-thinking-gumbel": {"gumbel_temperature": 1e-7},
}
GREEDY = {"temperature": 0}
# The engine keeps the seeds of `regular` requests under deterministic inference only.
SAMPLED: list[dict[str, Any]] = [
    {"temperature": 1.0},
    {"temperature": 0.7, "top_k": 20, "top_p": 0.9},
    {"temperature": 1.3, "top_k": 40, "repetition_penalty": 1.2},
]
ENDS = {
    "cold stop": {"entropy_threshold": 50.0, "length_threshold": 6},
    "own end": {"entropy_threshold": 0.0},
}
COMMON = {"max_new_tokens": 64, "ignore_eos": True}
LOGPROBS = {"return_logprob": True, "top_logprobs_num": 8}


@pytest.fixture(scope="module", params=[False, True], ids=["ordinary", "deterministic"])
def deterministic(request: pytest.FixtureRequest) -> bool:
    chosen: bool = request.param
    return chosen


@pytest.fixture(scope="module")
def server(
    model_path: Path, deterministic: bool, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    flags = ["--dtype", "float32", "--enable-samplers", ",".join(METHODS)]
    # Both kinds of requests prefill their whole prompt: the same shapes, the same rounding.
    flags += ["--disable-radix-cache", "--enable-custom-logit-processor"]
    environment = {"PYTHONPATH": str(Path(__file__).parent)}
    if deterministic:
        flags += ["--enable-deterministic-inference", "--attention-backend", "torch_native"]
        folder = tmp_path_factory.mktemp("plugin")
        environment = plugin_environment(folder, Path(deterministic_plugin.__file__))
    with serve(model_path, *flags, env=environment) as running:
        yield running


def soft_bodies(
    prompts: Sequence[Sequence[int]],
    think_ids: tuple[int, int],
    ends: Sequence[str],
    samplings: Sequence[dict[str, Any]],
) -> list[Body]:
    """One request for every method, way to end the thought, and sampling."""
    bodies: list[Body] = []
    think_start, think_end = map(str, think_ids)
    for method, end, sampling in product(METHODS, ends, samplings):
        # Temperature 0 leaves one token to mix, whatever the method.
        one = METHODS[method] if sampling["temperature"] else {}
        custom = {"sampler": method, method: one | ENDS[end] | {"trace": True}}
        seed = len(bodies)
        # The random model would begin another thought in its answer; some of the trained one's
        # thoughts go round in circles.
        bias = {think_start: -100.0} | ({think_end: 8.0} if end == "own end" else {})
        more = {"sampling_seed": seed, "logit_bias": bias}
        bodies.append((prompts[seed], custom, COMMON | sampling | more))
    return bodies


def thought(answer: dict[str, Any], think_end: int) -> list[int]:
    """The tokens of the thought, its end included; every step of it mixed one embedding."""
    tokens: list[int] = answer["output_ids"]
    length = tokens.index(think_end) + 1
    trace = answer["meta_info"]["soft_thinking_trace"]
    for entry, token in zip(trace[:length], tokens, strict=False):
        assert entry["phase"] == "think"
        assert entry["weights"][0] == 1.0
        assert not any(entry["weights"][1:])
        assert entry["ids"][0] == token or entry["cold_stop"]
    assert all(entry == {"phase": "response"} for entry in trace[length:])
    return tokens[:length]


def response(answer: dict[str, Any], first: int) -> tuple[list[int], list[Any], list[Any]]:
    meta = answer["meta_info"]
    return (
        answer["output_ids"][first:],
        meta["output_token_logprobs"][first:],
        meta["output_top_logprobs"][first:],
    )


def test_response_is_the_engines_own(
    server: Server,
    deterministic: bool,
    trained: bool,
    prompts: list[Sequence[int]],
    think_ids: tuple[int, int],
) -> None:
    _, think_end = think_ids
    # The random model does not end a thought by itself.
    ends = list(ENDS) if trained else ["cold stop"]
    bodies = soft_bodies(prompts, think_ids, ends, [GREEDY, *(SAMPLED if deterministic else ())])
    answers = server.generate_batch(bodies, **LOGPROBS)
    thoughts = [thought(answer, think_end) for answer in answers]
    regular = server.generate_batch(
        [
            (prompt, {"sampler": "regular", "forced": tokens}, sampling)
            for (prompt, _, sampling), tokens in zip(bodies, thoughts, strict=True)
        ],
        custom_logit_processor=ForcedTokens.to_str(),
        **LOGPROBS,
    )
    steps = 0
    for ours, theirs, tokens in zip(answers, regular, thoughts, strict=True):
        assert theirs["output_ids"][: len(tokens)] == tokens
        assert response(ours, len(tokens)) == response(theirs, len(tokens))
        steps += len(theirs["output_ids"]) - len(tokens)
    print(json.dumps({"requests": len(bodies), "response steps": steps}))
    assert steps > 20 * len(bodies)
