"""What a request may set: one file per method, and the parsing of `custom_params`."""

from __future__ import annotations

from led_sglang.params.dola import BUCKETS, DolaParams, bucket, parse_layer_list
from led_sglang.params.led import GATES, LAYERS, MAX_CANDIDATES, PRESETS, LedParams
from led_sglang.params.request import (
    GROUPS,
    SAMPLERS,
    MethodParams,
    RequestSampling,
    parse_request,
)
from led_sglang.params.soft_thinking import (
    MAX_TOPK,
    SOFT_SAMPLERS,
    SoftThinkingParams,
    check_filters,
)
from led_sglang.params.values import ParameterError

__all__ = [
    "BUCKETS",
    "GATES",
    "GROUPS",
    "LAYERS",
    "MAX_CANDIDATES",
    "MAX_TOPK",
    "PRESETS",
    "SAMPLERS",
    "SOFT_SAMPLERS",
    "DolaParams",
    "LedParams",
    "MethodParams",
    "ParameterError",
    "RequestSampling",
    "SoftThinkingParams",
    "bucket",
    "check_filters",
    "parse_layer_list",
    "parse_request",
]
