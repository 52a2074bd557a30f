"""What a model's folder must hold, read before SGLang is: configuration, weights, tokenizer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from led_sglang.settings import LaunchRefused

_WEIGHTS = ("*.safetensors", "*.bin", "*.pt")
_INDEX = "model.safetensors.index.json"
# tokenizer.json, tokenization_x.py, vocab.txt, tekken.json, x.tiktoken, spiece.model ...
_TOKENIZER = re.compile(r"token|tiktok|tekken|vocab|spiece|sentencepiece|merges", re.IGNORECASE)
_AGAIN = "download or copy it again"


def read_config(file: Path) -> dict[str, Any]:
    """A config.json.

    Raises:
        LaunchRefused: it is not one.
    """
    config = _read_object(file)
    if not ("model_type" in config or "architectures" in config):
        raise LaunchRefused(
            f"{file} is no model's configuration: it names neither model_type nor architectures"
        )
    return config


def check_weights(folder: Path) -> None:
    """Refuse a folder whose weights are not there, or are not whole.

    Raises:
        LaunchRefused: names the file and the way out.
    """
    if not any(found for pattern in _WEIGHTS for found in folder.glob(pattern)):
        raise LaunchRefused(
            f"{folder} holds no weights ({', '.join(_WEIGHTS)}); name a folder that a model was "
            "saved to, or take random ones with --load-format dummy"
        )
    if (folder / _INDEX).exists():
        names = _read_object(folder / _INDEX).get("weight_map")
        for name in sorted(set(names.values())) if isinstance(names, dict) else ():
            if not (folder / str(name)).exists():
                raise LaunchRefused(f"{folder / str(name)}, which {_INDEX} names, is missing")
    for file in folder.glob("*.safetensors"):
        if what := _what_is_wrong(file):
            raise LaunchRefused(f"{file} {what}; {_AGAIN}")


def check_tokenizer_files(folder: Path) -> None:
    """Refuse a folder without a tokenizer, or with a broken one.

    Raises:
        LaunchRefused: names the folder or the file, and the way out.
    """
    if not any(_TOKENIZER.search(file.name) for file in folder.iterdir() if file.is_file()):
        raise LaunchRefused(
            f"{folder} holds no tokenizer, such as tokenizer.json; save it there, or name its "
            "folder with --tokenizer-path"
        )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (folder / name).exists():
            _read_object(folder / name)


def _read_object(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise LaunchRefused(f"{file} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise LaunchRefused(f"{file} is not JSON ({error}); {_AGAIN}") from None
    if not isinstance(content, dict):
        raise LaunchRefused(f"{file} is no JSON object; {_AGAIN}")
    return content


def _what_is_wrong(file: Path) -> str | None:
    """What keeps a .safetensors file from being loaded; None where nothing does."""
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            head = opened.read(8)
            length = int.from_bytes(head, "little")
            header = opened.read(length) if 8 + length <= size else b""
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if head == b"version ":
        return "is a pointer of Git LFS instead of the weights (`git lfs pull`)"
    try:
        ends = list(_ends(json.loads(header)))
    except (AttributeError, LookupError, TypeError, ValueError):
        return "is no safetensors file, or cut short"
    return "is cut short" if 8 + length + max(ends, default=0) > size else None


def _ends(header: dict[str, Any]) -> Iterator[int]:
    """Where each tensor's bytes end, behind the header."""
    for name, tensor in header.items():
        if name != "__metadata__":
            yield int(tensor["data_offsets"][1])
