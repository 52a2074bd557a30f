"""The model whose step is checked: sizes alone, its weights are random."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from led_sglang.common.terminal import CommandError

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class Shape:
    """Sizes of a step: H, V, the type of LM head and latents, depth d and candidates k."""

    hidden: int
    vocab: int
    dtype: torch.dtype
    depth: int = 8
    candidates: int = 8

    @property
    def layers(self) -> int:
        """Latent layers of a request."""
        return self.depth - 1

    @property
    def head_bytes(self) -> int:
        """Of the LM head: what a pass over it reads."""
        return self.hidden * self.vocab * self.dtype.itemsize

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"H {self.hidden}, V {self.vocab}, {dtype}, d {self.depth}, k {self.candidates}"


# Qwen3-4B on a GPU; what two CPU cores check in a minute; what Triton's interpreter does.
ON_A_GPU = Shape(2560, 151936, torch.bfloat16)
ON_A_CPU = Shape(512, 16384, torch.bfloat16)
INTERPRETED = Shape(72, 1009, torch.bfloat16)


def of_model(folder: Path, default: Shape) -> Shape:
    """The shape that a model's config.json states; what it leaves out is the default's.

    Raises:
        CommandError: there is no such file, or it states no sizes.
    """
    file = folder / "config.json"
    try:
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        config = config.get("text_config", config)
        hidden, vocab = int(config["hidden_size"]), int(config["vocab_size"])
    except OSError as error:
        raise CommandError(
            f"{file} cannot be read ({error.strerror}); --model-path takes a model's folder, or "
            "give --hidden-size and --vocab-size"
        ) from None
    except (AttributeError, KeyError, TypeError, ValueError):
        raise CommandError(
            f"{file} states no hidden_size and vocab_size; give --hidden-size and --vocab-size"
        ) from None
    named = str(config.get("dtype") or config.get("torch_dtype"))
    return replace(default, hidden=hidden, vocab=vocab, dtype=DTYPES.get(named, default.dtype))
