"""A model of random weights for each way to capture layers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from led_sglang.models.random_qwen3 import byte_tokenizer

_LENGTH = 4096
# A configuration class that transformers does not have, as published checkpoints bring one.
_CODE = """\
from transformers import {base}


class Block(dict):
    def __getattr__(self, name):
        if name in self:
            return self[name]
        raise AttributeError(name)


class {name}({base}):
    model_type = "{model_type}"

    def __init__(self, block_configs=(), **values):
        super().__init__(**values)
        self.block_configs = [
            Block({{part: Block(values) for part, values in block.items()}})
            for block in block_configs
        ]
"""


@dataclass(frozen=True)
class Model:
    """One architecture.

    Attributes:
        base: the model type of transformers that has its layers.
        own: where it is published under other names: architecture, configuration class and its
            base, model type.
        values: further keys of its configuration.
    """

    base: str
    own: tuple[str, str, str, str] | None = None
    values: dict[str, Any] = field(default_factory=dict)


MODELS = {
    "dflash": Model("qwen3"),
    "eagle3": Model("qwen2"),
    "boundary": Model("qwen2", own=("MiMoForCausalLM", "MiMoConfig", "Qwen2Config", "mimo")),
    "layer_input": Model("granite", values={"logits_scaling": 4.0}),
    "snapshot": Model(
        "llama", own=("DeciLMForCausalLM", "DeciLMConfig", "LlamaConfig", "nemotron-nas")
    ),
}


def write_model(kind: str, folder: Path, toy: bool) -> Path:
    """Write it: weights that make latents and posteriors differ from layer to layer, a tokenizer.

    Args:
        kind: a key of `MODELS`.
        folder: made if missing; it is returned.
        toy: for a CPU.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    model = MODELS[kind]
    hidden = 64 if toy else 1024
    tokenizer = byte_tokenizer(("<think>", "</think>"), _LENGTH)
    config = AutoConfig.for_model(
        model.base,
        hidden_size=hidden,
        intermediate_size=max(2 * hidden, 256),
        max_position_embeddings=_LENGTH,
        num_attention_heads=hidden // 16 if toy else hidden // 64,
        num_hidden_layers=12,
        num_key_value_heads=2,
        tie_word_embeddings=False,
        vocab_size=300 if toy else 32_000,
        eos_token_id=tokenizer.eos_token_id,
        **({"head_dim": 16 if toy else 64} if model.base == "qwen3" else {}),
        **model.values,
    )
    torch.manual_seed(0)
    built = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, weight in built.named_parameters():
            if weight.ndim == 2:
                residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                gain = 0.5 if residual else 3.0 if name == "lm_head.weight" else 1.4
                weight.normal_(std=gain / weight.shape[1] ** 0.5)
    built.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if model.own is not None:
        _publish(folder, *model.own)
    return folder


def _publish(folder: Path, architecture: str, name: str, base: str, model_type: str) -> None:
    """Put the names of a published checkpoint over transformers' own."""
    module = f"configuration_{model_type.replace('-', '_')}"
    code = _CODE.format(base=base, name=name, model_type=model_type)
    (folder / f"{module}.py").write_text(code)
    file = folder / "config.json"
    config = json.loads(file.read_text())
    blocks = {
        "attention": {"no_op": False, "n_heads_in_group": config["num_attention_heads"] // 2},
        # SGLang takes 2/3 of it, rounded up to 256.
        "ffn": {
            "no_op": False,
            "ffn_mult": 1.5 * config["intermediate_size"] / config["hidden_size"],
        },
    }
    config |= {
        "model_type": model_type,
        "architectures": [architecture],
        "auto_map": {"AutoConfig": f"{module}.{name}"},
        "block_configs": [blocks] * config["num_hidden_layers"],
    }
    file.write_text(json.dumps(config, indent=2))
