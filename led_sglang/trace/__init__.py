"""Token-by-token traces of LED: what each token's candidates were, layer by layer, and the choice.

trace = Trace.from_response(response, prompt="What is 2 + 3?")
trace.to_pandas()          # one row a token
trace.layers_to_pandas()   # one row a token, layer and candidate
"""

from __future__ import annotations

from led_sglang.trace.page import write_page
from led_sglang.trace.records import (
    Step,
    Token,
    Trace,
    TraceError,
    TraceSettings,
    first_divergence,
)

__all__ = [
    "Step",
    "Token",
    "Trace",
    "TraceError",
    "TraceSettings",
    "first_divergence",
    "write_page",
]
