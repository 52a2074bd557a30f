"""Sampling methods: a registry and one file per method.

`regular` has no file: it is the engine's own sampler, which runs for the whole batch anyway.
"""

from __future__ import annotations

from led_sglang.samplers.base import Method, ModelView, Picks, Registry, StepContext
from led_sglang.samplers.led import Led
from led_sglang.samplers.rows import PLAIN_ROW, Row, RowTable

METHODS = Registry([Led()])

__all__ = [
    "METHODS",
    "PLAIN_ROW",
    "Led",
    "Method",
    "ModelView",
    "Picks",
    "Registry",
    "Row",
    "RowTable",
    "StepContext",
]
