"""The methods this package serves: one line each."""

from __future__ import annotations

from led_sglang.methods.base import Method
from led_sglang.methods.dola import Dola
from led_sglang.methods.led import Led
from led_sglang.methods.soft_thinking import SoftThinking

# In the order of messages; a batch's steps run in it too.
METHODS: list[Method] = [Led(), Dola(), SoftThinking()]


def method_of(sampler: str) -> Method | None:
    """The method behind a sampler's name; None for `regular` and unknown names."""
    return next((method for method in METHODS if sampler in method.samplers), None)


def sampler_names() -> tuple[str, ...]:
    """What a request may name, where the server offers it."""
    return (*(name for method in METHODS for name in method.samplers), "regular")
