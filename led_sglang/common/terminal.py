"""How every command meets the terminal: one sentence for an error, 130 for Ctrl-C, no traceback."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

FAILED = 2
INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it


class CommandError(Exception):
    """A command cannot start or go on; one sentence that names the cause and the way out."""


def finish(command: Callable[[], int]) -> int:
    """Run a command to its exit status.

    Returns:
        The command's own status; 2 where it cannot go on, 130 after Ctrl-C, 1 where the reader of
        its output is gone (`| head`).
    """
    try:
        status = command()
        sys.stdout.flush()
    except CommandError as error:
        print(f"led-sglang: {error}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        # What is still buffered would raise again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        print(f"led-sglang: {error.strerror or error}{where}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("led-sglang: interrupted", file=sys.stderr)
        return INTERRUPTED
    return status


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C does nothing meanwhile: for a clean-up that is bounded and must not be cut short."""
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def ended_at_once() -> Iterator[None]:
    """Ctrl-C ends the process on the spot meanwhile: for imports of extensions.

    Where C++ calls Python, a `KeyboardInterrupt` would abort the process (status -6).
    """
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return

    def end(*_: object) -> None:
        os.write(2, b"led-sglang: interrupted\n")  # a stream's lock may be held
        os._exit(INTERRUPTED)

    before = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
