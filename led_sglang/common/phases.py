"""The phases of a request by the names that traces show."""

from __future__ import annotations

# In the order of `led_sglang.phase.Phase`.
PHASE_NAMES = ("before", "think", "response")
