"""What a launch says of an architecture that LED cannot serve, and of models of few layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from harness import serve, tail
from launches import refused_launch
from oracle import Oracle

from families.tiny_models import Family, write
from led_sglang.models.random_qwen3 import write_random_qwen3
from led_sglang.patches.families import CAPTURES

# SGLang's configuration of it reads keys of its own first.
NEEDS_KEYS = "InklingForConditionalGeneration"
# One architecture for each reason; test_capture_contract.py has the sentences of all.
REFUSED = {
    row.note: name
    for name, row in reversed(CAPTURES.items())
    if row.method == "refused" and name != NEEDS_KEYS
}
UNKNOWN = "LED does not know how its layers are built"
# A model LED was never read for, and a drafting model of speculative decoding.
OTHERS = [(UNKNOWN, "OPTForCausalLM"), (UNKNOWN, "LlamaForCausalLMEagle3")]

STARCODER = Family("starcoder2", {"tie_word_embeddings": True}, without=("head_dim",))
PHIMOE = Family("phimoe", {"num_local_experts": 4, "num_experts_per_tok": 2}, without=("head_dim",))

# What SGLang reads of a configuration before a launch is LED's to refuse.
KEYS = {
    "q_lora_rank": 24,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "index_n_heads": 2,
    "index_head_dim": 16,
    "index_topk": 16,
    "compress_ratios": [0, 4, 4, 0],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_qwen3(tmp_path_factory.mktemp("models") / "model", layers=4)


def refused_configuration(model: Path, folder: Path, changes: dict[str, Any]) -> str:
    """The sentence with which the launch of a changed configuration ends."""
    config = json.loads((model / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    for file in model.glob("*token*"):
        (folder / file.name).write_bytes(file.read_bytes())
    status, output = refused_launch("--model-path", str(folder), "--load-format", "dummy")
    assert status == 2, output[-3000:]
    assert "Traceback" not in output
    return output.strip().splitlines()[-1]


@pytest.mark.parametrize(("reason", "architecture"), [*REFUSED.items(), *OTHERS])
def test_refused_architecture(
    model: Path, tmp_path: Path, reason: str | None, architecture: str
) -> None:
    """The configuration alone: a launch must end before it looks for weights."""
    changes = KEYS | {"architectures": [architecture]}
    sentence = refused_configuration(model, tmp_path, changes)
    assert f"LED cannot capture the layers of {architecture}: {reason}; " in sentence
    assert "--sampler regular" in sentence


def test_a_configuration_without_a_key_that_sglang_reads(model: Path, tmp_path: Path) -> None:
    sentence = refused_configuration(model, tmp_path, {"architectures": [NEEDS_KEYS]})
    assert "AttributeError: 'Qwen3Config' object has no attribute 'local_layer_ids'" in sentence
    assert "config.json lacks a key that SGLang's class reads; add the key" in sentence


def test_an_unknown_architecture_of_few_layers_is_served_by_the_first_proven_way(
    tmp_path: Path,
) -> None:
    """Starcoder 2 offers no setter and no boundary; what enters its layers is the stream."""
    path, _ = write(STARCODER, tmp_path)
    flags = ("--dtype", "float32", "--led-think-only", "false", "--led-unproven-architecture")
    limits = ("--max-running-requests", "4", "--max-total-tokens", "1024")
    with serve(path, *flags, *limits) as server:
        log = tail(server.log, 100_000)
        led = server.get("/server_info").json()["internal_states"][0]["led"]
        too_deep = {"custom_params": {"led": {"depth": 5}}}
        refused = server.post("/generate", {"input_ids": [5, 6, 7], "sampling_params": too_deep})
        prompt = list(range(40, 60))
        wish = {"gate": "always", "depth": 4}
        answer = server.generate(prompt, {"led": wish}, temperature=0, max_new_tokens=16)
    name = "Starcoder2ForCausalLM is not in LED's table: "
    assert f"note        {name}dflash, eagle3, boundary, layer_input, whole_input are tried" in log
    assert f"note        {name}its layers are captured by layer_input" in log
    found = led["truncation_check"]
    assert found["method"] == "layer_input"
    assert list(found["layers"]) == ["h^1", "h^2", "h^3"]
    assert all(own <= 1e-4 and other > 0.1 for own, other in found["layers"].values())
    assert "depth 8 clamped to the model's 4 layers" in log
    assert led["settings"]["depth"] == 4
    assert refused.status_code == 400
    assert "depth" in refused.text
    tokens = answer["output_ids"]
    check = {"candidates": 8, **wish}
    verdict = Oracle(path).check_greedy(prompt, tokens, [True] * len(tokens), **check)
    assert verdict.differences == []
    assert verdict.steps == 16


def test_an_architecture_that_sglang_runs_by_transformers_layers_is_refused(tmp_path: Path) -> None:
    """SGLang's class has another name than transformers': it falls back without a word."""
    path, _ = write(PHIMOE, tmp_path)
    _, output = refused_launch("--model-path", str(path), "--led-unproven-architecture")
    sentence = output.strip().splitlines()[-1]
    assert "LED cannot capture the layers of PhimoeForCausalLM: SGLang has no class" in sentence
    assert "--sampler regular" in sentence


def test_more_depth_than_layers_is_refused(model: Path) -> None:
    status, output = refused_launch("--model-path", str(model), "--led-depth", "5")
    assert status == 2, output[-3000:]
    assert "--led-depth 5 is outside 1..4" in output.strip().splitlines()[-1]
