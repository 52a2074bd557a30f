"""Latent Exploration Decoding (docs/method.md#one-led-step)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from led_sglang.methods.base import LoadedModel, Method
from led_sglang.methods.led.params import (
    BEHAVIOUR_KEY,
    LED_COLUMNS,
    SUMMARY_KEY,
    TRACE_KEY,
    LedParams,
    parse_led,
)
from led_sglang.settings import ServerSettings

if TYPE_CHECKING:
    from led_sglang.methods.led.record import LedStatistics
    from led_sglang.methods.led.sampler import LedSampler


class Led(Method):
    """Samples from the entropy-richest mix of the last layers when the model is unsure."""

    samplers = ("led",)
    params = LedParams
    columns = LED_COLUMNS
    summary = SUMMARY_KEY
    lists = (TRACE_KEY, BEHAVIOUR_KEY)

    def parse(self, sampler: str, group: Mapping[str, Any], settings: ServerSettings) -> LedParams:
        return parse_led(group, settings)

    def statistics(self) -> LedStatistics:
        from led_sglang.methods.led.record import LedStatistics

        return LedStatistics()

    def bind(self, model: LoadedModel, state: None) -> LedSampler:
        from led_sglang.methods.led.sampler import LedSampler

        return LedSampler(model)
