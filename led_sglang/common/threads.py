"""Calls that wait for a server, on threads that Ctrl-C does not wait for."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

Given = TypeVar("Given")
Result = TypeVar("Result")
# Between two calls of `progress` while nothing ends.
_TICK_S = 0.5


def run_all(
    call: Callable[[Given], Result],
    items: Sequence[Given],
    workers: int,
    progress: Callable[[int], None],
) -> list[Result]:
    """`[call(item) for item in items]` on threads.

    An interpreter that ends joins the threads of `concurrent.futures`: after Ctrl-C it would wait
    for answers of the server that nobody wants any more. These are left behind.

    Args:
        call: of one item; what it raises is raised here, and no further item begins.
        items: each is one call.
        workers: so many calls run at once.
        progress: told, in this thread, how many calls have ended; about twice a second.

    Returns:
        The results, in the order of the items.
    """
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
    results: dict[int, Result] = {}
    stopped = threading.Event()

    def work() -> None:
        while not stopped.is_set():
            try:
                index = todo.get_nowait()
            except queue.Empty:
                return
            try:
                results[index] = call(items[index])
            except BaseException as error:
                done.put(error)
            else:
                done.put(None)

    for index in range(len(items)):
        todo.put(index)
    try:
        for _ in range(min(workers, len(items))):
            threading.Thread(target=work, daemon=True).start()
        ended = 0
        while ended < len(items):
            try:
                error = done.get(timeout=_TICK_S)
            except queue.Empty:
                progress(ended)
                continue
            if error is not None:
                raise error
            ended += 1
            progress(ended)
    finally:
        stopped.set()
    return [results[index] for index in range(len(items))]
