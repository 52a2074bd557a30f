"""The model's tokenizer: bytes for any text, and one token for each word of the task."""

from __future__ import annotations

from typing import Any

from led_sglang.models.random_qwen3 import byte_tokenizer
from tiny_reasoner.task import DONE, PREFIX, START, STUCK

THINK = ("<think>", "</think>")
MAX_POSITION = 2048


def make_tokenizer(rooms: int) -> Any:
    """A `transformers` tokenizer with the chat template of the bundled models.

    Args:
        rooms: how many there are words for.
    """
    names = range(1, rooms + 1)
    # Earlier words win: doors before rooms (`1-2 ` holds `2 `), `assistant` before `stuck` (`st`).
    words = (
        "user\n",
        "assistant\n",
        "\n\n",
        PREFIX,
        START,
        *(f"{a}-{b} " for a in names for b in names if a < b),
        *(f"{room} " for room in names),
        STUCK,
        DONE,
    )
    return byte_tokenizer(THINK, MAX_POSITION, words)
