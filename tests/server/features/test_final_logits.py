"""Whatever SGLang does to the final logits, LED starts from the result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from harness import Server
from oracle import Oracle
from sglang.srt.sampling.custom_logit_processor import DisallowedTokensLogitsProcessor

from .checks import ALWAYS, GREEDY, TURN_END, assert_led_tokens

EOS = (TURN_END, 256)


def test_min_new_tokens(server: Server, oracle: Oracle, prompts: list[Sequence[int]]) -> None:
    """The turn's end is wanted at once and comes when it may; until then it is no candidate."""

    def adjust(logits: torch.Tensor, tokens: Sequence[int]) -> torch.Tensor:
        logits = logits.clone()
        logits[TURN_END] += 40.0
        if len(tokens) < 12:
            logits[list(EOS)] = -torch.inf
        return logits

    sampling = {"temperature": 0, "max_new_tokens": 40, "min_new_tokens": 12}
    bias = {"logit_bias": {str(TURN_END): 40.0}}
    tokens = server.generate(prompts[0], {"led": ALWAYS}, **sampling, **bias)["output_ids"]
    assert len(tokens) == 13
    assert tokens[-1] == TURN_END
    assert_led_tokens(oracle, prompts[0], tokens, adjust)


def test_custom_logit_processor(
    server: Server, oracle: Oracle, prompts: list[Sequence[int]], tokenizer: Any
) -> None:
    banned = list(range(64, 80))

    def adjust(logits: torch.Tensor, tokens: Sequence[int]) -> torch.Tensor:
        logits = logits.clone()
        logits[banned] = -torch.inf
        return logits

    body = {
        "input_ids": list(prompts[1]),
        "custom_logit_processor": DisallowedTokensLogitsProcessor.to_str(),
        "sampling_params": GREEDY
        | {"max_new_tokens": 32, "custom_params": {"led": ALWAYS, "token_ids": banned}},
    }
    answer = server.post("/generate", body).json()
    assert_led_tokens(oracle, prompts[1], answer["output_ids"], adjust)


def test_logprobs(server: Server, oracle: Oracle, prompts: list[Sequence[int]]) -> None:
    """Log-probabilities keep the engine's meaning (final layer) and are of LED's tokens."""
    prompt = prompts[3]
    body = {
        "input_ids": list(prompt),
        "return_logprob": True,
        "logprob_start_len": 0,
        "top_logprobs_num": 3,
        "token_ids_logprob": [65, 66],
        "sampling_params": GREEDY | {"max_new_tokens": 24, "custom_params": {"led": ALWAYS}},
    }
    answer = server.post("/generate", body).json()
    tokens, meta = answer["output_ids"], answer["meta_info"]
    assert_led_tokens(oracle, prompt, tokens)
    expected = oracle.states([*prompt, *tokens])[0].double().log_softmax(1)

    prompt_logprobs = [entry[0] for entry in meta["input_token_logprobs"]]
    assert prompt_logprobs[0] is None
    assert len(prompt_logprobs) == len(prompt)
    wanted = [float(expected[i, prompt[i + 1]]) for i in range(len(prompt) - 1)]
    assert prompt_logprobs[1:] == pytest.approx(wanted, abs=2e-4)

    for step, token in enumerate(tokens):
        row = expected[len(prompt) + step - 1]
        logprob, token_id, _ = meta["output_token_logprobs"][step]
        assert token_id == token
        assert logprob == pytest.approx(float(row[token]), abs=2e-4)
        top = row.topk(3)
        reported = [(entry[0], entry[1]) for entry in meta["output_top_logprobs"][step]]
        assert [entry[0] for entry in reported] == pytest.approx(top.values.tolist(), abs=2e-4)
        asked = [entry[0] for entry in meta["output_token_ids_logprobs"][step]]
        assert asked == pytest.approx(row[[65, 66]].tolist(), abs=2e-4)
