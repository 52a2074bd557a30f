"""What a command says while it waits: how long already, and a few words."""

from __future__ import annotations

import os
import sys
import time

# Between two lines where standard error is a file.
_LINE_EVERY_S = 10.0


class Waiting:
    """`WHAT ... 12 s` on standard error: one line written again and again on a terminal, elsewhere
    a line every ten seconds."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._live = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._start = self._last = time.monotonic()

    def __enter__(self) -> Waiting:
        self._write(f"{self._what} ...")
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            print(file=sys.stderr, flush=True)

    @property
    def due(self) -> bool:
        """Whether `show` would write something now."""
        return time.monotonic() - self._last >= (1.0 if self._live else _LINE_EVERY_S)

    def show(self, detail: str = "") -> None:
        """Write the time so far, and `detail`, when it is due."""
        if not self.due:
            return
        self._last = time.monotonic()
        self._write(f"{self._what} ... {self._last - self._start:.0f} s{detail and ', ' + detail}")

    def _write(self, text: str) -> None:
        if not self._live:
            print(text, file=sys.stderr, flush=True)
            return
        # Of a line that is wider than the terminal, only its last row would be written over.
        room = (os.get_terminal_size(sys.stderr.fileno()).columns or 80) - 1
        if len(text) > room:
            text = f"..{text[2 - room :]}"
        print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)
