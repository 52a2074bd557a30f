"""The random model of the tests: loads, speaks and repeats itself."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from led_sglang.delimiters import boundary_ids, resolve_delimiters
from led_sglang.models.random_qwen3 import write_random_qwen3
from led_sglang.phase import Phase, ThinkAutomaton

SMALL: dict[str, Any] = {"layers": 2, "hidden": 32, "heads": 2, "kv_heads": 1, "head_dim": 16}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_qwen3(tmp_path_factory.mktemp("default") / "model")


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


def test_posteriors_are_spread_and_differ_between_layers(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    assert model.config.vocab_size == 261
    model = model.float()
    ids = torch.randint(0, 261, (8, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        out = model(ids, output_hidden_states=True)
        # hidden_states[l] is the residual stream after layer l, the last one is normed.
        latents = [out.hidden_states[layer] @ model.lm_head.weight.T for layer in range(11, 4, -1)]
    posteriors = [torch.softmax(logits / 0.6, -1) for logits in (out.logits, *latents)]
    assert 0.1 < float(posteriors[0].amax(-1).median()) < 0.5
    for above, below in pairwise(posteriors):
        assert 0.15 < float((above - below).abs().sum(-1).mean() / 2) < 0.6


def test_generation_settings_end_at_the_turn(folder: Path, tokenizer: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    ends = tokenizer.convert_ids_to_tokens(model.generation_config.eos_token_id)
    assert ends == ["<|im_end|>", "<|endoftext|>"]
    assert model.generation_config.temperature == 0.6
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")


@pytest.mark.parametrize(
    ("options", "ending", "phase"),
    [
        ({}, "<|im_start|>user\nWhat is <think>?<|im_end|>\n", Phase.BEFORE),
        (
            {"add_generation_prompt": True},
            "?<|im_end|>\n<|im_start|>assistant\n<think>\n",
            Phase.THINK,
        ),
        (
            {"add_generation_prompt": True, "enable_thinking": False},
            "?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
            Phase.RESPONSE,
        ),
    ],
)
def test_chat_template_and_phase(
    tokenizer: Any, options: dict[str, bool], ending: str, phase: Phase
) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello"},
        {"role": "user", "content": "What is <think>?"},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
    assert text.startswith(
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>"
    )
    assert "<|im_start|>assistant\n<think>\nhm\n</think>\n\nHello<|im_end|>\n" in text
    assert text.endswith(ending)
    delimiters = resolve_delimiters(tokenizer, "<think>", "</think>", named_by_user=False)
    automaton = ThinkAutomaton(*delimiters, boundary_ids(tokenizer))
    prompt = tokenizer.encode(text, add_special_tokens=False)
    assert automaton.phase(automaton.scan_prompt(prompt)) == phase


@settings(max_examples=200, deadline=None)
@given(text=st.text())
def test_any_text_round_trips(tokenizer: Any, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text


def test_think_tokens_are_single_and_kept_in_the_text(tokenizer: Any) -> None:
    ids = tokenizer.encode("<think>a</think><|im_end|>", add_special_tokens=False)
    assert len(ids) == 4
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<think>a</think>"


@pytest.mark.parametrize("think_tokens", [None, ("[THINK]", "[/THINK]")])
def test_other_think_tokens(tmp_path: Path, think_tokens: tuple[str, str] | None) -> None:
    path = write_random_qwen3(tmp_path / "model", **SMALL, think_tokens=think_tokens)
    tokenizer = AutoTokenizer.from_pretrained(path)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "a"}], tokenize=False, add_generation_prompt=True
    )
    opened = "[THINK]\n" if think_tokens else ""
    assert text == f"<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n{opened}"
    with pytest.raises(ValueError, match="--led-think-only false"):
        resolve_delimiters(tokenizer, "<think>", "</think>", named_by_user=False)


def test_a_seed_fixes_the_weights_and_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    paths = [
        write_random_qwen3(tmp_path / name, **SMALL, seed=seed)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert torch.equal(torch.rand(3), expected)
    a, b, c = (load_file(path / "model.safetensors") for path in paths)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["model.embed_tokens.weight"], c["model.embed_tokens.weight"])


def test_an_untied_head_is_drawn_of_its_own(tmp_path: Path) -> None:
    path = write_random_qwen3(tmp_path / "m", **SMALL, tie_embeddings=False, dtype="float32")
    weights = load_file(path / "model.safetensors")
    head, embedding = weights["lm_head.weight"], weights["model.embed_tokens.weight"]
    assert head.dtype == torch.float32
    assert float(head.std()) == pytest.approx(0.12, rel=0.05)
    assert not torch.equal(head, embedding)
