"""Models of real shapes without weights: a config and a tokenizer, for `--load-format dummy`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from string import ascii_lowercase

from led_sglang.models.random_qwen3 import byte_tokenizer

_MAX_POSITION = 40_960
_THINK = ("<think>", "</think>")


@dataclass(frozen=True)
class Shape:
    """Sizes of a Qwen3-like model; QwQ-32B's are those of the 32B one with its own vocabulary."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int = 151_936
    tied: bool = False


# From the published config.json of Qwen3-0.6B, Qwen3-4B, Qwen3-8B and Qwen3-32B.
SHAPES = {
    "0.6B": Shape(1024, 3072, 28, 16, 8, tied=True),
    "4B": Shape(2560, 9728, 36, 32, 8, tied=True),
    "8B": Shape(4096, 12_288, 36, 32, 8),
    "32B": Shape(5120, 25_600, 64, 64, 8),
}


def write_shape(name: str, folder: Path) -> Path:
    """Write a model folder that `--load-format dummy` can serve.

    Args:
        name: a key of `SHAPES`.
        folder: made if missing.

    Returns:
        `folder`.
    """
    shape = SHAPES[name]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(_config(shape), indent=2) + "\n")
    plain = len(byte_tokenizer(_THINK, _MAX_POSITION))
    tokenizer = byte_tokenizer(_THINK, _MAX_POSITION, _words(shape.vocab - plain))
    tokenizer.save_pretrained(folder)
    return folder


def _words(count: int) -> list[str]:
    """Texts that add one token each, so that every id of the vocabulary has a text."""
    every = (
        "".join(letters)
        for length in range(2, 6)
        for letters in product(ascii_lowercase, repeat=length)
    )
    return list(islice(every, count))


def _config(shape: Shape) -> dict[str, object]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "attention_bias": False,
        "dtype": "bfloat16",
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "max_position_embeddings": _MAX_POSITION,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1_000_000,
        "tie_word_embeddings": shape.tied,
        "vocab_size": shape.vocab,
        "eos_token_id": 258,
    }
