"""Calls that wait for the network, on threads that nobody waits for.

An interpreter that ends joins the threads of `concurrent.futures`: after Ctrl-C it would wait for
answers that nobody wants any more. These are left behind.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import TypeVar

Given = TypeVar("Given")
Result = TypeVar("Result")
# Between two calls of `progress`.
_TICK_S = 0.5


def start(call: Callable[[], Result]) -> Future[Result]:
    """Run a call on a thread of its own; its result or error is in the future."""
    future: Future[Result] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future


def run_all(
    call: Callable[[Given], Result],
    items: Sequence[Given],
    workers: int,
    progress: Callable[[int], None],
) -> list[Result]:
    """`[call(item) for item in items]` on threads.

    Args:
        call: what it raises is raised here, and no further item begins.
        workers: so many calls run at once.
        progress: told, in this thread, how many calls have ended; about twice a second.
    """
    todo = iter(enumerate(items))  # shared: taking the next one is atomic
    results: dict[int, Result] = {}
    stopped = threading.Event()

    def work() -> None:
        for index, item in todo:
            if stopped.is_set():
                return
            results[index] = call(item)

    threads = {start(work) for _ in range(min(workers, len(items)))}
    try:
        while threads:
            ended, threads = wait(threads, timeout=_TICK_S, return_when=FIRST_COMPLETED)
            for thread in ended:
                thread.result()  # raises what its call raised
            progress(len(results))
    finally:
        stopped.set()
    return [results[index] for index in range(len(items))]
