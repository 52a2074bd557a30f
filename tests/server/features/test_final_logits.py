"""Whatever SGLang does to the final logits, LED starts from the result."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import xgrammar
from harness import Server
from oracle import Oracle
from sglang.srt.sampling.custom_logit_processor import (
    DisallowedTokensLogitsProcessor,
    ThinkingBudgetLogitProcessor,
)

from .checks import (
    ALWAYS,
    GREEDY,
    THINK_END,
    THINK_START,
    TURN_END,
    assert_led_tokens,
    compare_led_tokens,
    think_flags,
)

EOS = (TURN_END, 256)
Penalty = Callable[..., torch.Tensor]
BIAS = {70: 2.0, 71: 1.5, 80: -8.0, THINK_END: 1.0}


def penalised(frequency: float = 0.0, presence: float = 0.0, repetition: float = 1.0) -> Penalty:
    """OpenAI's two additive penalties and the multiplicative one, as SGLang counts.

    Its overlap scheduler counts a request's tokens one step late, and the last prompt token in
    place of the first.
    """

    def adjust(logits: torch.Tensor, tokens: Sequence[int], prompt: Sequence[int]) -> torch.Tensor:
        counts = torch.zeros_like(logits)
        for token in [prompt[-1], *tokens[:-1]] if tokens else []:
            counts[token] += 1
        seen = counts > 0
        logits = logits - frequency * counts - presence * seen
        scaled = torch.where(logits < 0, logits * repetition, logits / repetition)
        return torch.where(seen, scaled, logits)

    return adjust


def biased(logits: torch.Tensor, tokens: Sequence[int]) -> torch.Tensor:
    logits = logits.clone()
    for token, bias in BIAS.items():
        logits[token] += bias
    return logits


PENALTIES: list[tuple[dict[str, float], Penalty]] = [
    ({"frequency_penalty": 1.5}, penalised(frequency=1.5)),
    ({"presence_penalty": 1.2}, penalised(presence=1.2)),
    ({"repetition_penalty": 1.4}, penalised(repetition=1.4)),
    (
        {"frequency_penalty": -0.5, "presence_penalty": 0.7, "repetition_penalty": 1.2},
        penalised(-0.5, 0.7, 1.2),
    ),
]


@pytest.mark.parametrize(
    ("sampling", "penalty"), PENALTIES, ids=lambda v: "-".join(v) if isinstance(v, dict) else ""
)
def test_penalties(
    server: Server,
    oracle: Oracle,
    prompts: list[Sequence[int]],
    sampling: dict[str, float],
    penalty: Penalty,
) -> None:
    """Alone in the server: which step counts what depends on SGLang's batches."""
    prompt = prompts[1]
    answer = server.generate(prompt, {"led": ALWAYS}, **GREEDY, max_new_tokens=32, **sampling)
    assert_led_tokens(oracle, prompt, answer["output_ids"], partial(penalty, prompt=prompt))


def test_logit_bias(
    server: Server, oracle: Oracle, prompts: list[Sequence[int]], regular: dict[str, Any]
) -> None:
    """Biased rows, others and plain ones in one batch."""
    bias = {"logit_bias": {str(token): value for token, value in BIAS.items()}}
    bodies: list[Any] = []
    for row in range(4):
        sampling = GREEDY | {"max_new_tokens": 24} | (bias if row % 2 else {})
        bodies.append((prompts[row], {"led": ALWAYS}, sampling))
        bodies.append((prompts[row], regular, GREEDY | {"max_new_tokens": 8 + row} | bias))
    for row, answer in enumerate(server.generate_batch(bodies)[::2]):
        adjust = biased if row % 2 else None
        assert_led_tokens(oracle, prompts[row], answer["output_ids"], adjust)


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


SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "string", "pattern": "^[a-f]{24}$"}, "b": {"type": "boolean"}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
TAG = {
    "type": "structural_tag",
    "format": {
        "type": "tag",
        "begin": "<call>",
        "content": {"type": "regex", "pattern": "[a-f]{24}"},
        "end": "</call>",
    },
}
# `[a-e]`: fewer tokens are possible than there are candidates.
GRAMMARS: dict[str, Any] = {
    "regex": "[a-e]{24}",
    "json_schema": json.dumps(SCHEMA),
    "ebnf": 'root ::= "x" [0-9]{14} "y"',
    "structural_tag": json.dumps(TAG),
}


class Grammar:
    """xgrammar's own mask, from the tokens alone."""

    def __init__(self, kind: str, text: str, tokenizer: Any) -> None:
        self.vocabulary = len(tokenizer)
        info = xgrammar.TokenizerInfo.from_huggingface(
            tokenizer, vocab_size=self.vocabulary, stop_token_ids=list(EOS)
        )
        compiler = xgrammar.GrammarCompiler(info)
        self.compiled = {
            "regex": compiler.compile_regex,
            "json_schema": partial(compiler.compile_json_schema, any_whitespace=False),
            "ebnf": compiler.compile_grammar,
            "structural_tag": compiler.compile_structural_tag,
        }[kind](text)

    def __call__(self, logits: torch.Tensor, tokens: Sequence[int]) -> torch.Tensor:
        matcher = xgrammar.GrammarMatcher(self.compiled)
        for token in tokens:
            assert matcher.accept_token(token), f"{token} does not fit the grammar"
        mask = xgrammar.allocate_token_bitmask(1, self.vocabulary)
        matcher.fill_next_token_bitmask(mask)
        words, bits = torch.arange(self.vocabulary) // 32, torch.arange(self.vocabulary) % 32
        allowed = (mask[0][words].long() >> bits) & 1
        return logits.masked_fill(allowed == 0, -torch.inf)


@pytest.mark.parametrize("kind", GRAMMARS)
def test_grammar(
    server: Server, oracle: Oracle, prompts: list[Sequence[int]], tokenizer: Any, kind: str
) -> None:
    """Only the final logits are masked: without normalising, the latents' few allowed tokens
    weigh next to nothing beside a final posterior that has nothing else."""
    led = ALWAYS | {"normalize_layers": True}
    grammar = Grammar(kind, GRAMMARS[kind], tokenizer)
    sampling = {"temperature": 0, "max_new_tokens": 80, kind: GRAMMARS[kind]}
    bodies = [(prompt, {"led": led}, sampling) for prompt in prompts[:3]]
    told_apart = 0
    for prompt, answer in zip(prompts, server.generate_batch(bodies), strict=False):
        assert answer["meta_info"]["finish_reason"]["type"] == "stop", answer["text"]
        assert answer["meta_info"]["led"]["explored_tokens"] > 0
        told_apart += compare_led_tokens(oracle, prompt, answer["output_ids"], grammar, **led)
    assert told_apart > 0


class ThinkingBudget(ThinkingBudgetLogitProcessor):
    """SGLang's, with the test model's ids."""

    THINKING_START_TOKEN_ID = THINK_START
    THINKING_END_TOKEN_ID = THINK_END
    NEW_LINE_TOKEN_ID = 198


# Pickled by value: the server cannot import this file.
ThinkingBudget.__module__ = "__main__"


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


def test_thinking_budget(server: Server, oracle: Oracle, prompts: list[Sequence[int]]) -> None:
    """The processor forces `</think>`; LED explores before it and stays away after it."""
    budget = {"thinking_budget": 12}
    body = {
        "input_ids": list(prompts[2]),
        "custom_logit_processor": ThinkingBudget.to_str(),
        "sampling_params": GREEDY
        | {"max_new_tokens": 40, "custom_params": {"led": ALWAYS, **budget}},
    }
    answer = server.post("/generate", body).json()
    tokens = answer["output_ids"]
    assert THINK_END in tokens[12:18]
    thinks = think_flags(prompts[2], tokens)
    assert answer["meta_info"]["led"]["think_tokens"] == sum(thinks) < 20

    def adjust(logits: torch.Tensor, so_far: Sequence[int]) -> torch.Tensor:
        # Under the overlap scheduler a processor sees a request's tokens one step late.
        request = SimpleNamespace(origin_input_ids=list(prompts[2]), output_ids=list(so_far[:-1]))
        processed: torch.Tensor = ThinkingBudget()(
            logits.clone()[None], [{**budget, "__req__": request}]
        )
        return processed[0]

    assert_led_tokens(oracle, prompts[2], tokens, adjust)


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
