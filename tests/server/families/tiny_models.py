"""Tiny random models in Hugging Face format, of a family's own layer kinds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from led_sglang.models.random_qwen3 import byte_tokenizer

VOCABULARY = 300  # more than the tokenizer's, and no multiple of anything SGLang pads to

_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


@dataclass(frozen=True)
class Family:
    """One row of the proof.

    Attributes:
        model_type: of transformers' configuration.
        config: its values beside the common ones.
        without: common keys the configuration does not take.
        served: makes the folder that is served out of the one transformers reads, where the two
            differ: a name transformers does not know, or drafting layers it does not load.
        zero: parts of the names of parameters that are zero.
        flags: of the server.
        prefill_graphs: whether SGLang captures prefill graphs of it.
        led: further arguments of the reference, such as `softcap`.
        vision: of a vision model, whose text model `config` describes, the rest of its
            configuration; it is asked without images.
        tried: the way to capture that a launch must find without the table, "refused" for none;
            None: the table's, or one that is tried earlier.
    """

    model_type: str
    config: dict[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    served: Callable[[Path, Path], None] | None = None
    zero: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    prefill_graphs: bool = True
    led: dict[str, Any] = field(default_factory=dict)
    vision: dict[str, Any] = field(default_factory=dict)
    tried: str | None = None


def write(family: Family, folder: Path, seed: int = 0) -> tuple[Path, Path]:
    """Write a random model of the family: weights in float32, and a tokenizer with think tokens.

    Matrices are normal with deviation 1.4 / sqrt(inputs), less where they write to the residual
    stream and more in an LM head of its own, so that both sides of the gate are taken. Norms,
    biases and other vectors are their initial values plus a tenth of a normal draw, so that a norm
    or a bias left out shows.

    Returns:
        The folders of the model for transformers and for the server; mostly the same.
    """
    values = {**_COMMON, **family.config}
    for key in family.without:
        values.pop(key)
    if family.vision:
        values = {"text_config": values, **family.vision}
    config = AutoConfig.for_model(family.model_type, **values)
    kind = AutoModelForImageTextToText if family.vision else AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind.from_config(config, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim < 2:
                parameter.add_(0.1 * noise)
                if "sink" in name:  # SGLang keeps these in bfloat16
                    parameter.copy_(parameter.bfloat16())
                continue
            residual = any(part in name for part in ("o_proj", "down_proj", "out_proj"))
            gain = 0.5 if residual else 3.0 if name == "lm_head.weight" else 1.4
            parameter.copy_(gain / parameter.shape[-1] ** 0.5 * noise)
            if any(part in name for part in family.zero):
                parameter.zero_()
        for name, buffer in model.named_buffers():
            if "correction_bias" in name:
                buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
    path = folder / "model"
    model.save_pretrained(path)
    byte_tokenizer(("<think>", "</think>"), 512).save_pretrained(path)
    if family.served is None:
        return path, path
    family.served(path, folder / "served")
    return path, folder / "served"
