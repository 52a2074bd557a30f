"""A refusal ends its process with a sentence, not with a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from led_sglang.settings import LaunchRefused

# Of a process that a refusal has ended.
REFUSED_STATUS = 1


@contextmanager
def ending_with_a_sentence() -> Iterator[None]:
    """For launches from a command line, SGLang's own included, and for the ranks they start."""
    try:
        yield
    except LaunchRefused as error:
        # Python prints it when the process ends, after everything SGLang logs on the way out, and
        # the status is `REFUSED_STATUS`.
        raise SystemExit(f"led-sglang: {error}") from None
