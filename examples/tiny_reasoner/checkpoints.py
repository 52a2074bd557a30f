"""Finding the place to go on from."""

from __future__ import annotations

from pathlib import Path

from transformers.trainer_utils import get_last_checkpoint


def last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint in a trainer's folder, or None before the first."""
    return get_last_checkpoint(folder) if folder.is_dir() else None
