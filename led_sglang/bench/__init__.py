"""`led-sglang bench`: what LED costs on a server, measured side by side."""

from __future__ import annotations


class BenchError(RuntimeError):
    """A benchmark cannot be planned or go on; one sentence."""
