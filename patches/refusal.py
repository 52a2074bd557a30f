"""A refusal ends its process with a sentence, not with a traceback."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from led_sglang.settings import LaunchRefused

# Of a process that a refusal has ended.
REFUSED_STATUS = 1
# What SGLang's code raises where a model's configuration lacks a key, or holds null.
CONFIG_ERRORS = (AttributeError, KeyError, TypeError)


@contextmanager
def ending_with_a_sentence() -> Iterator[None]:
    """For launches from a command line, SGLang's own included, and for the ranks they start."""
    try:
        yield
    except LaunchRefused as error:
        # Python prints it when the process ends, after everything SGLang logs on the way out, and
        # the status is `REFUSED_STATUS`.
        raise SystemExit(f"led-sglang: {error}") from None


def unreadable_checkpoint(error: Exception) -> Exception:
    """The refusal of a checkpoint of which SGLang cannot read a configuration, or build a model.

    Args:
        error: one of `CONFIG_ERRORS`; one that other code than the engine's has raised is returned
            as it is.
    """
    frames = traceback.extract_tb(error.__traceback__)
    if not any(f"/{package}/" in frames[-1].filename for package in ("sglang", "transformers")):
        return error
    place = next(f for f in reversed(frames) if "/sglang/" in f.filename)
    said = f"{type(error).__name__}: {error}".splitlines()[0]
    return LaunchRefused(
        f"SGLang cannot make a model of this checkpoint ({said}, in {Path(place.filename).name}, "
        f"line {place.lineno}): most likely its config.json lacks a key that SGLang's class reads; "
        "add the key, or serve another checkpoint"
    )
