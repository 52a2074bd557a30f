"""Token-by-token traces of LED: what each token's candidates were, layer by layer, and the choice.

trace = run_trace(ServerClient("http://localhost:30000"), "What is 2 + 3?")
write_page([trace], "trace.html")
trace.to_pandas()          # one row a token
trace.layers_to_pandas()   # one row a token, layer and candidate
"""

from __future__ import annotations

from led_sglang.common.client import ServerClient
from led_sglang.trace.ask import run_trace
from led_sglang.trace.page import write_page
from led_sglang.trace.records import Step, Token, Trace, TraceError, TraceSettings, first_divergence

__all__ = [
    "ServerClient",
    "Step",
    "Token",
    "Trace",
    "TraceError",
    "TraceSettings",
    "first_divergence",
    "run_trace",
    "write_page",
]
