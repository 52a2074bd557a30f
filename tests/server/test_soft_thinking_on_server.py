"""SoftThinking on a real server equals a transformers loop that feeds the mixture back."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import Server, serve
from oracle import NEAR_TIE
from scipy.stats import chisquare
from soft_oracle import SoftOracle, SoftRun

from led_sglang.kernels.reference.soft_thinking import soft_reference

THINK_START, THINK_END = 259, 260
NEW_TOKENS = 64
TOP_K = 20
SAMPLING = {
    "temperature": 0.7,
    "top_k": TOP_K,
    "top_p": 0.9,
    "max_new_tokens": NEW_TOKENS,
    "ignore_eos": True,
}
# Where two runs may round differently: rounding then grows so slowly that tokens stay the same.
STEADY = SAMPLING | {"temperature": 0.15, "top_p": 1.0, "max_new_tokens": 12}
# Two bytes, two tokens; no prompt holds them.
TOOL_START = "~^"
METHODS = ("soft-thinking", "soft-thinking-gumbel", "soft-thinking-dirichlet")


@pytest.fixture(scope="module")
def server(model_path: Path) -> Iterator[Server]:
    flags = ("--sampler", "soft-thinking", "--enable-samplers", ",".join(METHODS[1:]))
    flags += ("--led-tool-start", TOOL_START)
    with serve(
        model_path, "--dtype", "float32", "--max-running-requests", "256", *flags
    ) as running:
        yield running


@pytest.fixture(scope="module")
def oracle(model_path: Path) -> SoftOracle:
    return SoftOracle(model_path)


def fed_by(answer: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    """What the server fed itself: tokens and trace entries."""
    trace = answer["meta_info"]["soft_thinking_trace"]
    return list(zip(answer["output_ids"], trace, strict=True))


def agreement(answer: dict[str, Any], run: SoftRun) -> tuple[int, list[str]]:
    """Near ties of the oracle's own choices, and what differs elsewhere."""
    ties, differences = 0, []
    for index, (token, entry) in enumerate(fed_by(answer)):
        if token != run.tokens[index]:
            if run.leads[index] < NEAR_TIE:
                ties += 1
            else:
                differences.append(f"step {index}: server {token}, oracle {run.tokens[index]}")
        if entry["phase"] != "think":
            assert entry == {"phase": "response"}
            continue
        reference = run.steps[index]
        assert entry["entropy"] == pytest.approx(reference.entropy, rel=1e-4, abs=1e-5)
        ours = dict(zip(entry["ids"], entry["weights"], strict=True))
        theirs = dict(zip(reference.ids, reference.weights.tolist(), strict=True))
        if ours.keys() != theirs.keys():  # one more or less at the edge of top_p
            ties += 1
            continue
        for token_id, weight in ours.items():
            assert weight == pytest.approx(theirs[token_id], rel=1e-3, abs=1e-5)
    return ties, differences


@pytest.mark.parametrize("method", METHODS[:2])
def test_tokens_and_weights_equal_the_oracle(
    server: Server, oracle: SoftOracle, prompts: list[Sequence[int]], method: str
) -> None:
    answers = server.generate_batch(
        [
            (
                prompt,
                {"sampler": method, method: {"trace": True}},
                SAMPLING | {"sampling_seed": 100 + i},
            )
            for i, prompt in enumerate(prompts)
        ]
    )
    steps, differences, ties = 0, [], 0
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        run = oracle.run(
            prompt,
            NEW_TOKENS,
            think_start=THINK_START,
            think_end=THINK_END,
            seed=100 + i,
            temperature=0.7,
            top_k=TOP_K,
            top_p=0.9,
            noisy=method == "soft-thinking-gumbel",
            fed=fed_by(answer),
        )
        near, wrong = agreement(answer, run)
        steps += len(run.tokens)
        ties += near
        differences += [f"prompt {i}, {line}" for line in wrong]
    print(f"{method}: {steps} steps, {ties} near ties")
    assert differences == []
    assert steps == len(prompts) * NEW_TOKENS
    assert ties < 0.005 * steps


def test_cold_stop_after_exactly_its_length(
    server: Server, oracle: SoftOracle, prompts: list[Sequence[int]]
) -> None:
    """Then ordinary seeded sampling from the KV cache of the mixtures."""
    # The model does not end its thought, or begin another, by itself.
    bias = {THINK_START: -50.0, THINK_END: -50.0}
    for i, length in enumerate((1, 2, 7)):
        soft = {"entropy_threshold": 50.0, "length_threshold": length, "trace": True}
        sampling = SAMPLING | {"top_p": 1.0, "sampling_seed": i, "max_new_tokens": 32}
        sampling["logit_bias"] = {str(token): value for token, value in bias.items()}
        answer = server.generate(prompts[i], {"soft-thinking": soft}, **sampling)
        tokens, meta = answer["output_ids"], answer["meta_info"]
        assert tokens.index(THINK_END) == length - 1
        forced = [entry.get("cold_stop") for entry in meta["soft_thinking_trace"]]
        assert forced == [False] * (length - 1) + [True] + [None] * (32 - length)
        assert meta["soft_thinking"]["cold_stops"] == 1
        assert meta["soft_thinking"]["think_tokens"] == length
        run = oracle.run(
            prompts[i],
            32,
            think_start=THINK_START,
            think_end=THINK_END,
            seed=i,
            temperature=0.7,
            top_k=TOP_K,
            cold_stop=(50.0, length),
            bias=bias,
            fed=fed_by(answer),
        )
        assert agreement(answer, run) == (0, [])


def test_a_tool_call_ends_the_thought(
    server: Server, oracle: SoftOracle, tokenizer: Any, prompts: list[Sequence[int]]
) -> None:
    """Its last token is fed as itself, and the engine samples what follows."""
    call = tokenizer.encode(TOOL_START, add_special_tokens=False)
    bias = {THINK_START: -50.0, THINK_END: -50.0} | dict.fromkeys(call, 6.0)
    method = "soft-thinking-gumbel"
    sampling = SAMPLING | {"top_p": 1.0, "max_new_tokens": 48}
    sampling["logit_bias"] = {str(token): value for token, value in bias.items()}
    interrupted = 0
    for i, prompt in enumerate(prompts[:6]):
        custom = {"sampler": method, method: {"trace": True}}
        answer = server.generate(prompt, custom, **sampling, sampling_seed=i)
        tokens = answer["output_ids"]
        pairs = list(pairwise(tokens))
        length = pairs.index((call[0], call[1])) + 2 if tuple(call) in pairs else len(tokens)
        phases = [entry["phase"] for entry in answer["meta_info"]["soft_thinking_trace"]]
        assert phases == ["think"] * length + ["response"] * (len(tokens) - length)
        interrupted += length < len(tokens)
        run = oracle.run(
            prompt,
            len(tokens),
            think_start=THINK_START,
            think_end=THINK_END,
            tool_start=call,
            seed=i,
            temperature=0.7,
            top_k=TOP_K,
            noisy=True,
            bias=bias,
            fed=fed_by(answer),
        )
        assert agreement(answer, run) == (0, [])
    assert interrupted >= 3


def test_no_cold_stop_with_threshold_zero(server: Server, prompts: list[Sequence[int]]) -> None:
    soft = {"entropy_threshold": 0, "length_threshold": 1}
    answer = server.generate(prompts[0], {"soft-thinking": soft}, **SAMPLING)
    assert answer["meta_info"]["soft_thinking"]["cold_stops"] == 0


DRAWS, PER_REQUEST = 20_000, 1_000


def test_gumbel_emits_draws_from_the_filtered_distribution(
    server: Server, oracle: SoftOracle, prompts: list[Sequence[int]]
) -> None:
    prompt = list(prompts[1])
    filters = {"temperature": 0.7, "top_k": 8, "top_p": 0.9}
    server.generate(prompt, {"sampler": "regular"}, max_new_tokens=1)  # caches the prompt
    counts: Counter[int] = Counter()
    method = "soft-thinking-gumbel"
    for first in range(0, DRAWS, PER_REQUEST):
        bodies = [
            (
                prompt,
                {"sampler": method},
                filters | {"max_new_tokens": 1, "ignore_eos": True, "sampling_seed": first + i},
            )
            for i in range(PER_REQUEST)
        ]
        counts.update(answer["output_ids"][0] for answer in server.generate_batch(bodies))
    with torch.no_grad():
        logits = oracle.model(torch.tensor([prompt])).logits[0, -1]
    truth = soft_reference(logits, **filters)
    assert set(counts) <= set(truth.ids)
    observed = [counts[token] for token in truth.ids]
    p_value = chisquare(observed, (truth.weights * DRAWS).tolist()).pvalue
    print(f"p = {p_value:.4f} over {len(truth.ids)} tokens")
    assert p_value > 0.001


def seeded(prompts: list[Sequence[int]], index: int) -> tuple[Sequence[int], Any, dict[str, Any]]:
    method = METHODS[index % 3]
    # The cold stop comes on the way, so that some rows are retracted in their response.
    sampling = STEADY | {"sampling_seed": index}
    custom = {"sampler": method, method: {"entropy_threshold": 9.0, "length_threshold": 8}}
    return prompts[index], custom, sampling


def test_retracted_requests_get_their_mixtures_back(
    server: Server, prompts: list[Sequence[int]]
) -> None:
    """The same tokens as alone, although all running requests are retracted again and again."""
    bodies = [seeded(prompts, i) for i in range(9)]
    alone = [server.generate_batch([body])[0] for body in bodies]
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(server.generate_batch, bodies)
        while not running.done():
            time.sleep(0.1)
            assert server.post("/pause_generation", {"mode": "retract"}).status_code == 200
            assert server.post("/continue_generation", {}).status_code == 200
        answers = running.result()
    assert all(answer["meta_info"]["num_retractions"] > 0 for answer in answers)
    for answer, solo in zip(answers, alone, strict=True):
        assert answer["output_ids"] == solo["output_ids"]
        ours, theirs = (a["meta_info"]["soft_thinking"] for a in (answer, solo))
        assert ours["think_tokens"] == theirs["think_tokens"]
        assert ours["cold_stops"] == theirs["cold_stops"]


def test_soft_answers_stay_out_of_the_prefix_cache(
    server: Server, prompts: list[Sequence[int]]
) -> None:
    prompt = list(prompts[4])
    assert server.post("/flush_cache", {}).status_code == 200
    soft = server.generate(prompt, None, **STEADY)
    whole = prompt + soft["output_ids"]
    regular = {"sampler": "regular"}
    first = server.generate(whole, regular, temperature=0, max_new_tokens=4)
    assert first["meta_info"]["cached_tokens"] == 0
    again = server.generate(whole, regular, temperature=0, max_new_tokens=4)
    assert again["meta_info"]["cached_tokens"] > len(prompt)
    assert again["output_ids"] == first["output_ids"]
    # The prompt alone may be shared: its KV is that of its tokens.
    shared = server.generate(prompt, None, **STEADY)
    assert 0 < shared["meta_info"]["cached_tokens"] <= len(prompt)
    assert shared["output_ids"] == soft["output_ids"]


def test_n_samples_differ_and_repeat(server: Server, prompts: list[Sequence[int]]) -> None:
    method = "soft-thinking-gumbel"
    body = {
        "input_ids": list(prompts[2]),
        # Few tokens: rounding differs between batches and grows with every mixture.
        "sampling_params": SAMPLING
        | {"n": 4, "sampling_seed": 5, "max_new_tokens": 6, "custom_params": {"sampler": method}},
    }
    runs = [[a["output_ids"] for a in server.post("/generate", body).json()] for _ in range(2)]
    assert runs[0] == runs[1]
    assert len({tuple(sample) for sample in runs[0]}) == 4


BAD: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"soft-thinking": {"max_topk": 10}}, {"top_k": 5}, "soft-thinking.max_topk"),
    ({"soft-thinking": {"max_topk": 33}}, {}, "soft-thinking.max_topk"),
    ({"soft-thinking": {"max_topk": 0}}, {}, "soft-thinking.max_topk"),
    ({"soft-thinking": {"entropy_threshold": -0.1}}, {}, "soft-thinking.entropy_threshold"),
    ({"soft-thinking": {"length_threshold": -1}}, {}, "soft-thinking.length_threshold"),
    ({"soft-thinking": {"length_threshold": 1.5}}, {}, "soft-thinking.length_threshold"),
    ({"soft-thinking": {"alpha": 4}}, {}, "soft-thinking.alpha"),
    ({"soft-thinking-gumbel": {}}, {}, "soft-thinking-gumbel"),
    (
        {"sampler": METHODS[1], METHODS[1]: {"gumbel_temperature": 0}},
        {},
        "soft-thinking-gumbel.gumbel_temperature",
    ),
    ({"sampler": METHODS[2], METHODS[2]: {"alpha": 0}}, {}, "soft-thinking-dirichlet.alpha"),
    ({"sampler": "dola"}, {}, "--enable-samplers dola"),
]


@pytest.mark.parametrize(("custom", "sampling", "named"), BAD)
def test_bad_parameters_are_400_and_name_the_key(
    server: Server,
    prompts: list[Sequence[int]],
    custom: dict[str, Any],
    sampling: dict[str, Any],
    named: str,
) -> None:
    body = {
        "input_ids": list(prompts[0]),
        "sampling_params": sampling | {"custom_params": custom},
    }
    response = server.post("/generate", body)
    assert response.status_code == 400
    assert named in response.text


@pytest.mark.parametrize("sampler", METHODS)
def test_sessions_are_refused(server: Server, prompts: list[Sequence[int]], sampler: str) -> None:
    session = server.post("/open_session", {"capacity_of_str_len": 4096}).json()
    body = {
        "input_ids": list(prompts[0]),
        "session_params": {"id": session, "rid": None},
        "sampling_params": SAMPLING | {"custom_params": {"sampler": sampler}},
    }
    answer = server.post("/generate", body)
    assert answer.status_code == 400
    assert "session_params do not go with sampler" in answer.text
    assert sampler in answer.text
    server.post("/close_session", {"session_id": session})
