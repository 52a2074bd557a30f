"""LoRA adapters in the layers, and weights replaced while the server runs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import requests
import torch
import unpinned_plugin
from extra_plugin import plugin_environment
from features.checks import ALWAYS, GREEDY, compare_led_tokens
from harness import Server, serve
from oracle import Oracle
from safetensors.torch import save_file

from led_sglang.models.random_qwen3 import write_random_qwen3

RANK, ALPHA = 4, 8.0
SERVED = "tiny"
MODULES = ("q_proj", "v_proj", "o_proj", "gate_proj", "down_proj")


@pytest.fixture(scope="module")
def adapter(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random adapter in PEFT's format, large enough to change most tokens.

    Small where it writes to the residual stream: else one direction would drown all others, the
    un-normed latents be sure of one token, and LED change nothing.
    """
    folder = tmp_path_factory.mktemp("adapter")
    generator = torch.Generator().manual_seed(5)
    tensors = {}
    for name, module in Oracle(model_path).model.named_modules():
        if name.rpartition(".")[2] in MODULES:
            out, into = module.weight.shape
            prefix = f"base_model.model.{name}"
            tensors[f"{prefix}.lora_A.weight"] = torch.randn(RANK, into, generator=generator) * 0.1
            scale = 0.1 / 6 if name.endswith(("o_proj", "down_proj")) else 0.1
            tensors[f"{prefix}.lora_B.weight"] = torch.randn(out, RANK, generator=generator) * scale
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(model_path),
        "r": RANK,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(MODULES),
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "other"
    return write_random_qwen3(path, seed=9, dtype="float32")


def merged(model_path: Path, adapter: Path) -> Oracle:
    """The oracle with the adapter in its weights: W + alpha/r * B A."""
    from safetensors.torch import load_file

    oracle, tensors = Oracle(model_path), load_file(adapter / "adapter_model.safetensors")
    for name, module in oracle.model.named_modules():
        a = tensors.get(f"base_model.model.{name}.lora_A.weight")
        if a is not None:
            b = tensors[f"base_model.model.{name}.lora_B.weight"]
            with torch.no_grad():
                module.weight += ALPHA / RANK * b @ a
    return oracle


@pytest.fixture(scope="module")
def server(
    model_path: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("plugin")
    environment = plugin_environment(folder, Path(unpinned_plugin.__file__))
    flags = ["--dtype", "float32", "--enable-lora", "--lora-paths", f"tuned={adapter}"]
    flags += ["--lora-backend", "torch_native", "--max-lora-rank", str(RANK)]
    flags += ["--served-model-name", SERVED]
    with serve(model_path, *flags, env=environment) as running:
        yield running


def greedy(server: Server, prompts: Sequence[Sequence[int]], lora: Any) -> list[list[int]]:
    body = {
        "input_ids": [list(prompt) for prompt in prompts],
        "lora_path": lora,
        "sampling_params": GREEDY | {"max_new_tokens": 40, "custom_params": {"led": ALWAYS}},
    }
    response = server.post("/generate", body)
    assert response.status_code == 200, response.text
    return [answer["output_ids"] for answer in response.json()]


def test_adapter_and_base_in_one_batch(
    server: Server, model_path: Path, adapter: Path, prompts: list[Sequence[int]]
) -> None:
    """Hidden states of each row come from its own adapter; the LM head is shared."""
    oracles = {"tuned": merged(model_path, adapter), None: Oracle(model_path)}
    rows = [(prompt, name) for prompt in prompts[:4] for name in oracles]
    answers = greedy(server, [prompt for prompt, _ in rows], [name for _, name in rows])
    told_apart: Counter[str | None] = Counter()
    for (prompt, name), tokens in zip(rows, answers, strict=True):
        told_apart[name] += compare_led_tokens(oracles[name], prompt, tokens)
    assert min(told_apart.values()) > 0
    assert answers[0] != answers[1]


def test_names_of_adapters_and_samplers(server: Server, adapter: Path) -> None:
    """`NAME:adapter`, `NAME:sampler` and both together."""

    def chat(model: str, **own: Any) -> requests.Response:
        turns = [{"role": "user", "content": "Tell me a story about a fox."}]
        body = {"messages": turns, "max_tokens": 24, "temperature": 0, "return_token_ids": True}
        return server.post("/v1/chat/completions", body | {"model": model} | own)

    def tokens(model: str, **own: Any) -> tuple[int, ...]:
        response = chat(model, **own)
        assert response.status_code == 200, response.text
        return tuple(response.json()["choices"][0]["response_token_ids"])

    seed, regular = {"seed": 4}, {"custom_params": {"sampler": "regular"}}
    found = {
        "led": [tokens(f"{SERVED}:led", **seed), tokens(SERVED, **seed)],
        "regular": [tokens(f"{SERVED}:regular"), tokens(SERVED, **regular)],
        "tuned": [
            tokens(f"{SERVED}:tuned", **seed),
            tokens(f"{SERVED}:tuned:led", **seed),
            tokens(SERVED, lora_path="tuned", **seed),
        ],
        "tuned, regular": [
            tokens(f"{SERVED}:tuned:regular"),
            tokens(f"{SERVED}:regular", lora_path="tuned"),
            tokens(f"{SERVED}:tuned", **regular),
        ],
    }
    assert all(len(set(same)) == 1 for same in found.values()), found
    assert len({same[0] for same in found.values()}) == len(found)
    assert chat(f"{SERVED}:tuned").json()["model"] == f"{SERVED}:tuned:led"
    listed = [model["id"] for model in server.get("/v1/models").json()["data"]]
    assert listed == [SERVED, f"{SERVED}:led", f"{SERVED}:regular", "tuned"]
    for unknown in (":nosuch", ":nosuch:led", ":tuned:nosuch", ":tuned:dola"):
        response = chat(SERVED + unknown)
        assert response.status_code == 404, response.text
        assert "does not exist" in response.text
    # SGLang takes any name for the model's own.
    assert chat("other:regular").json()["model"] == "other:regular"
    # A name that could be read in two ways is refused.
    body = {"lora_name": "regular", "lora_path": str(adapter)}
    response = server.post("/load_lora_adapter", body)
    assert response.status_code == 400
    assert "load the adapter under another name" in response.text


def test_weights_replaced(
    server: Server, model_path: Path, other_model: Path, prompts: list[Sequence[int]]
) -> None:
    """Runs last: nothing of the old weights is left in LED, the LM head included."""
    for model in (other_model, model_path):
        answer = server.post("/update_weights_from_disk", {"model_path": str(model)})
        assert answer.status_code == 200, answer.text
        oracle = Oracle(model)
        for led in (ALWAYS, ALWAYS | {"final_norm": True}):
            sampling = GREEDY | {"max_new_tokens": 32}
            answers = server.generate_batch([(p, {"led": led}, sampling) for p in prompts[:6]])
            told_apart = sum(
                compare_led_tokens(oracle, prompt, a["output_ids"], **led)
                for prompt, a in zip(prompts, answers, strict=False)
            )
            assert told_apart > 0
