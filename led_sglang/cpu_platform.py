"""Moved to `led_sglang.patches.cpu.platform`."""

from led_sglang.patches.cpu.platform import activate as activate
