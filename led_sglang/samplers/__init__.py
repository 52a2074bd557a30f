"""Sampling methods: registries and one file per method.

`regular` has no file: it is the engine's own sampler, which runs for the whole batch anyway.
"""

from __future__ import annotations

from led_sglang.samplers.base import (
    LogitsContext,
    LogitsMethod,
    Method,
    ModelView,
    Picks,
    Registry,
    StepContext,
)
from led_sglang.samplers.columns import Filters
from led_sglang.samplers.dola import Dola
from led_sglang.samplers.led import Led
from led_sglang.samplers.rows import PLAIN_ROW, Row, RowTable
from led_sglang.samplers.soft_state import SoftState
from led_sglang.samplers.soft_thinking import SoftThinking

METHODS: Registry[Method] = Registry([Led(), SoftThinking()])
LOGITS_METHODS: Registry[LogitsMethod] = Registry([Dola()])

__all__ = [
    "LOGITS_METHODS",
    "METHODS",
    "PLAIN_ROW",
    "Filters",
    "LogitsContext",
    "ModelView",
    "Picks",
    "Row",
    "RowTable",
    "SoftState",
    "StepContext",
]
