"""What a launch says of an architecture that LED cannot serve, and of models of few layers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from harness import serve, tail
from launches import refused_launch

from led_sglang.models.random_qwen3 import write_random_qwen3
from led_sglang.patches.families import CAPTURES

# SGLang asks for the card's properties before LED is asked; test_capture_contract.py has their
# sentences.
NEED_A_CARD = ("HYV4ForCausalLM",)
# SGLang's configuration of it reads keys of its own first.
NEEDS_KEYS = "InklingForConditionalGeneration"
REFUSED = {
    name: row.note
    for name, row in CAPTURES.items()
    if row.method == "refused" and name not in (*NEED_A_CARD, NEEDS_KEYS)
}
UNKNOWN = "LED does not know how its layers are built"
# A model LED was never read for, and the drafting models of speculative decoding.
OTHERS = dict.fromkeys(
    ("OPTForCausalLM", "LlamaForCausalLMEagle3", "DeepseekV3ForCausalLMNextN", "MiMoMTP"), UNKNOWN
)

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


@pytest.mark.parametrize(("architecture", "reason"), [*REFUSED.items(), *OTHERS.items()])
def test_refused_architecture(
    model: Path, tmp_path: Path, architecture: str, reason: str | None
) -> None:
    """The configuration alone: a launch must end before it looks for weights."""
    config = json.loads((model / "config.json").read_text())
    config |= KEYS | {"architectures": [architecture]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for file in model.glob("*token*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    status, output = refused_launch("--model-path", str(tmp_path), "--load-format", "dummy")
    assert status == 2, output[-3000:]
    assert "Traceback" not in output
    sentence = output.strip().splitlines()[-1]
    assert f"LED cannot capture the layers of {architecture}: {reason}; " in sentence
    assert "--sampler regular" in sentence


def test_fewer_layers_than_the_preset_asks_for(model: Path) -> None:
    with serve(model, "--max-running-requests", "4", "--max-total-tokens", "1024") as server:
        assert "depth 8 clamped to the model's 4 layers" in tail(server.log, 100_000)
        state = server.get("/server_info").json()["internal_states"][0]
        assert state["led"]["settings"]["depth"] == 4
        too_deep = {"custom_params": {"led": {"depth": 5}}}
        answer = server.post("/generate", {"input_ids": [5, 6, 7], "sampling_params": too_deep})
        assert answer.status_code == 400
        assert "depth" in answer.text


def test_more_depth_than_layers_is_refused(model: Path) -> None:
    status, output = refused_launch("--model-path", str(model), "--led-depth", "5")
    assert status == 2, output[-3000:]
    assert "--led-depth 5 is outside 1..4" in output.strip().splitlines()[-1]
