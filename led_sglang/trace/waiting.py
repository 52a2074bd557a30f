"""What `led-sglang trace` shows while the server thinks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from led_sglang.common.address import ServerError
from led_sglang.common.client import ServerClient
from led_sglang.common.threads import run_all
from led_sglang.common.waiting import Waiting
from led_sglang.trace.records import Trace

# A server that is too busy to count is not asked for long.
_COUNT_TIMEOUT_S = 3.0


def generated(ask: Callable[[], Trace], client: ServerClient, sampler: str) -> Trace:
    """The trace that `ask` gets, with the time and LED's tokens shown until it is there.

    SGLang sends an answer with its trace when it is whole (docs/trace.md says why no stream is
    asked for), so the tokens are those that LED has drawn on this server meanwhile.
    """
    watch = ServerClient(client.base_url, timeout_s=_COUNT_TIMEOUT_S)
    before = client.led_totals()
    with Waiting(f"{sampler}: generating") as waiting:

        def progress(_: int) -> None:
            if waiting.due:
                waiting.show(_count(watch, before))

        (trace,) = run_all(lambda _: ask(), [None], 1, progress)
    return trace


def _count(watch: ServerClient, before: Mapping[str, Any] | None) -> str:
    try:
        now = watch.led_totals()
    except ServerError:  # the request itself says what is wrong
        return ""
    if now is None or before is None:
        return ""
    tokens = now["think_tokens"] - before["think_tokens"]
    return f"{tokens} tokens of thought on this server meanwhile" if tokens else ""
