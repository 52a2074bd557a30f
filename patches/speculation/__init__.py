"""Speculative decoding: LED's own token at every drafted node (docs/speculation.md).

Importing it declares the hooks; `launch` decides what is verified at all.
"""

from led_sglang.patches.speculation import slots, stops, streams, verify

__all__ = ["slots", "stops", "streams", "verify"]
