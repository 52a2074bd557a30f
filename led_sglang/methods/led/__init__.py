"""Latent Exploration Decoding (docs/method.md#one-led-step)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from led_sglang.methods.base import LoadedModel, Method
from led_sglang.methods.led.params import (
    BEHAVIOUR_KEY,
    LED_COLUMNS,
    RELEASE_FLOOR,
    SUMMARY_KEY,
    TRACE_KEY,
    LedParams,
)
from led_sglang.methods.parameter import parse_group
from led_sglang.methods.values import ParameterError
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
        parameters = self.parameters(sampler)
        given = parse_group(sampler, group, parameters, settings)
        base = {p.name: getattr(settings, p.name) for p in parameters if p.from_server}
        if given.get("preset") == "release":
            base |= {"layers": "release", "floor": RELEASE_FLOOR}
        params = LedParams(**{**base, **given})
        for key, gate in (("gate_entropy", "entropy"), ("gate_rate", "rate")):
            if key in given and params.gate != gate:
                raise ParameterError(
                    f'custom_params.led.{key} needs custom_params.led.gate = "{gate}", '
                    f'got gate "{params.gate}"'
                )
            if params.gate == gate and key not in given:
                raise ParameterError(
                    f'custom_params.led.{key} is missing: gate "{gate}" needs it '
                    + ("(a number of nats >= 0)" if gate == "entropy" else "(a number in [0, 1])")
                )
        deepest = settings.max_depth(params.layers)
        if params.depth > deepest:
            if "depth" in given:
                raise ParameterError(
                    f"custom_params.led.depth must be an integer in 1..{deepest} with layers "
                    f'"{params.layers}" on this server, got {params.depth}'
                )
            params = replace(params, depth=deepest)
        if params.think_only and not settings.has_delimiters:
            raise ParameterError(
                "custom_params.led.think_only must be false: this server was started with "
                "--led-think-only false and knows no think delimiters"
            )
        return params

    def for_answer(self, params: LedParams, *, logprobs: bool, sampling_mask: bool) -> LedParams:
        reports = logprobs and params.logprobs == "behaviour"
        return replace(params, answers_q=reports or sampling_mask)

    def statistics(self) -> LedStatistics:
        from led_sglang.methods.led.record import LedStatistics

        return LedStatistics()

    def bind(self, model: LoadedModel, state: None) -> LedSampler:
        from led_sglang.methods.led.sampler import LedSampler

        return LedSampler(model)
