"""How a served request ends on Ctrl-C: it is given a moment, then aborted.

SGLang's HTTP server would wait until the last request is finished, however long that takes.
SIGTERM, which process managers send, still does so. Extra HTTP workers (--tokenizer-worker-num) are
processes that do not hear of Ctrl-C: they are ended after the same moment.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# What is nearly done gets done.
_GRACE_S = 2.0
# A client that does not read its stream may hold up even an aborted request.
_ABORT_TIMEOUT_S = 5.0


@contextmanager
def ctrl_c_ends_requests() -> Iterator[None]:
    """Have servers that run meanwhile end within some seconds of a Ctrl-C."""
    import uvicorn
    from uvicorn.supervisors import Multiprocess

    original, handle_int = uvicorn.Server.shutdown, Multiprocess.handle_int
    interrupted_workers = threading.Event()

    async def shutdown(self: Any, sockets: Any = None) -> None:
        interrupted = signal.SIGINT in self._captured_signals
        ending = asyncio.create_task(_end_requests(self)) if interrupted else None
        try:
            await original(self, sockets)
        finally:
            if ending is not None:
                ending.cancel()
                # What is cancelled from here on would log a traceback each.
                logging.getLogger("uvicorn.error").disabled = True

    def end_workers(self: Any) -> None:
        handle_int(self)
        interrupted_workers.set()
        ending = threading.Timer(_GRACE_S, lambda: [worker.kill() for worker in self.processes])
        ending.daemon = True
        ending.start()

    uvicorn.Server.shutdown = shutdown  # type: ignore[method-assign]
    Multiprocess.handle_int = end_workers  # type: ignore[method-assign]
    try:
        yield
    finally:
        uvicorn.Server.shutdown = original  # type: ignore[method-assign]
        Multiprocess.handle_int = handle_int  # type: ignore[method-assign]
    if interrupted_workers.is_set():  # the supervisor ends as if nothing were wrong
        raise KeyboardInterrupt


async def _end_requests(server: Any) -> None:
    from sglang.srt.entrypoints.http_server import get_global_state

    manager = get_global_state().tokenizer_manager
    if manager.rid_to_state:
        print(
            f"led-sglang: ending; {len(manager.rid_to_state)} running request(s) are aborted in "
            f"{_GRACE_S:.0f} s (Ctrl-C again ends at once)",
            file=sys.stderr,
            flush=True,
        )
    await asyncio.sleep(_GRACE_S)
    manager.abort_request(abort_all=True)
    await asyncio.sleep(_ABORT_TIMEOUT_S)
    server.force_exit = True
