"""The bundled random model: loads, speaks, repeats itself, and appears once in the cache."""

from __future__ import annotations

import functools
import subprocess
import sys
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

from led_sglang import default_model
from led_sglang.default_model import ensure_default_model, write_random_qwen3
from led_sglang.phase import Phase, ThinkAutomaton, boundary_ids, resolve_delimiters

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


@pytest.fixture
def small_recipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Write the small model into a cache of its own; the recipe's digest stays the real one."""

    @functools.wraps(write_random_qwen3)
    def write(path: Path) -> Path:
        return write_random_qwen3(path, **SMALL)

    monkeypatch.setattr(default_model, "write_random_qwen3", write)
    monkeypatch.setenv("LED_SGLANG_CACHE", str(tmp_path))
    return tmp_path


def test_the_default_model_is_written_once(
    small_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ensure_default_model()
    assert first.parent == small_recipe / "led-sglang"
    stamp = (first / "model.safetensors").stat().st_mtime_ns
    assert ensure_default_model() == first
    assert (first / "model.safetensors").stat().st_mtime_ns == stamp
    assert list(first.parent.iterdir()) == [first]
    monkeypatch.setattr(default_model, "_RECIPE_VERSION", 999)
    assert ensure_default_model() != first


def test_the_cache_folder_follows_the_environment(
    small_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LED_SGLANG_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(small_recipe / "xdg"))
    assert ensure_default_model().parent == small_recipe / "xdg" / "led-sglang"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(small_recipe / "home"))
    assert ensure_default_model().parent == small_recipe / "home" / ".cache" / "led-sglang"


def test_an_incomplete_folder_is_replaced(small_recipe: Path) -> None:
    path = ensure_default_model()
    (path / "tokenizer.json").unlink()
    assert ensure_default_model() == path
    assert (path / "tokenizer.json").is_file()
    assert list(path.parent.iterdir()) == [path]


def test_a_faster_process_wins(small_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = default_model.write_random_qwen3
    target = small_recipe / "led-sglang" / f"random-qwen3-{default_model._recipe_digest()}"

    @functools.wraps(write_random_qwen3)
    def overtaken(path: Path) -> Path:
        write(target)
        (target / "winner").touch()
        return write(path)

    monkeypatch.setattr(default_model, "write_random_qwen3", overtaken)
    assert ensure_default_model() == target
    assert (target / "winner").exists()
    assert list(target.parent.iterdir()) == [target]


def test_two_processes_at_once_get_one_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LED_SGLANG_CACHE", str(tmp_path))
    code = (
        "from led_sglang.default_model import ensure_default_model; print(ensure_default_model())"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    printed = {process.communicate()[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    (path,) = printed
    assert [str(entry) for entry in (tmp_path / "led-sglang").iterdir()] == [path]
    assert AutoModelForCausalLM.from_pretrained(path).config.num_hidden_layers == 12
