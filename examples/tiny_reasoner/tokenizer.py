"""The model's tokenizer: bytes for any text, and one token for each word of the task."""

from __future__ import annotations

from typing import Any

from led_sglang.models.random_qwen3 import byte_tokenizer
from tiny_reasoner.task import DONE, PREFIX, ROOMS, START, STUCK

THINK = ("<think>", "</think>")
MAX_POSITION = 2048

_ROOMS = range(1, ROOMS + 1)
# Earlier words win: doors before rooms (`1-2 ` holds `2 `), `assistant` before `stuck` (`st`).
_WORDS = (
    "user\n",
    "assistant\n",
    "\n\n",
    PREFIX,
    START,
    *(f"{a}-{b} " for a in _ROOMS for b in _ROOMS if a < b),
    *(f"{room} " for room in _ROOMS),
    STUCK,
    DONE,
)


def make_tokenizer() -> Any:
    """A `transformers` tokenizer with the chat template of the bundled models."""
    return byte_tokenizer(THINK, MAX_POSITION, _WORDS)
