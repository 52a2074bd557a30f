"""Float64 oracles: one request at a time, slowly. No code is shared with what they judge."""

from .led import LedReference, led_reference

__all__ = ["LedReference", "led_reference"]
