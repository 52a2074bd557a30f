"""What a request may set: one file per method, and the parsing of `custom_params`."""

from __future__ import annotations

from led_sglang.params.led import GATES, LAYERS, MAX_CANDIDATES, PRESETS, LedParams
from led_sglang.params.request import (
    GROUPS,
    SAMPLERS,
    MethodParams,
    RequestSampling,
    parse_request,
)
from led_sglang.params.values import ParameterError

__all__ = [
    "GATES",
    "GROUPS",
    "LAYERS",
    "MAX_CANDIDATES",
    "PRESETS",
    "SAMPLERS",
    "LedParams",
    "MethodParams",
    "ParameterError",
    "RequestSampling",
    "parse_request",
]
