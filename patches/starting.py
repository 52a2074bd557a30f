"""Whether the server in this process is still warming up, asked without making it generate.

`/health` generates a token, and with it moves the noise of requests without a seed.
"""

from __future__ import annotations

import sys
from typing import Any


def is_starting() -> bool:
    """False as well where other processes serve HTTP (--tokenizer-worker-num)."""
    # Not imported here: another thread may be about to, which takes half a minute.
    server: Any = sys.modules.get("sglang.srt.entrypoints.http_server")
    if server is None:
        return True
    state = server.get_global_state()
    manager = getattr(state, "tokenizer_manager", None)
    return manager is not None and manager.server_status.name == "Starting"
