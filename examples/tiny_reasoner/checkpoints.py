"""Where a stage goes on, and what it leaves behind once it is done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

_LOG = "trainer_state.json"


def last_checkpoint(folder: Path, tokenizer: Any) -> str | None:
    """The newest whole checkpoint in a trainer's folder, or None before the first.

    The trainer writes its log last: a checkpoint without one was cut off by a kill or a full disk.

    Args:
        folder: of the checkpoints; it may be missing.
        tokenizer: of the stage.

    Raises:
        SystemExit: the checkpoint has another vocabulary.
    """
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    for checkpoint in reversed(found):
        if _is_whole(checkpoint):
            refuse_other_words(checkpoint, tokenizer)
            return str(checkpoint)
    return None


def refuse_other_words(checkpoint: Path, tokenizer: Any) -> None:
    """End the stage where a checkpoint was trained with other tokens than the stage's.

    Raises:
        SystemExit: with the reason.
    """
    theirs = AutoTokenizer.from_pretrained(checkpoint).get_vocab()
    ours = tokenizer.get_vocab()
    if theirs != ours:
        raise SystemExit(
            f"{checkpoint} has another vocabulary ({len(theirs)} tokens) than this level "
            f"({len(ours)}): name a checkpoint that was trained with this one, or another folder"
        )


def write_log(trainer: Any, folder: Path) -> None:
    """Write a stage's `trainer_state.json`, whole or not at all: with it the stage is done."""
    part = folder / f"{_LOG}.part"
    trainer.state.save_to_json(str(part))
    part.rename(folder / _LOG)


def _is_whole(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / _LOG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True
