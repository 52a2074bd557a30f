"""A prefill server whose next transfer fails when half of the cache is over.

The file that `FLAG` names asks for it, once: it is gone when the transfer has failed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

FLAG = "LED_FAILING_TRANSFER"


def register() -> None:
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    target = "sglang.srt.disaggregation.mooncake.conn.MooncakeKVManager.send_kvcache"
    HookRegistry.register(target, _send, HookType.AROUND)


def _send(
    original: Any, self: Any, session: Any, pages: Any, to: Any, places: Any, *rest: Any, **how: Any
) -> Any:
    try:
        Path(os.environ[FLAG]).unlink()
    except FileNotFoundError:
        return original(self, session, pages, to, places, *rest, **how)
    half = len(pages) // 2
    original(self, session, pages[:half], to, places[:half], *rest, **how)
    return -1  # as the engine says it of a connection that has broken
