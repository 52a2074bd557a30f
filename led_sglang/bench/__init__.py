"""`led-sglang bench`: what LED costs on a server, measured side by side."""

from __future__ import annotations

from led_sglang.common.terminal import CommandError


class BenchError(CommandError):
    """A benchmark cannot be planned or go on; one sentence."""
