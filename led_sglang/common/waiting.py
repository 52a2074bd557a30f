"""What a command says while it waits: how long already, and a few words."""

from __future__ import annotations

import sys
import time

# Between two lines where standard error is a file.
_LINE_EVERY_S = 10.0


class Waiting:
    """`WHAT ... 12 s` on standard error: one line written again and again on a terminal, elsewhere
    a line every ten seconds."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._live = sys.stderr.isatty()
        self._start = self._last = time.monotonic()

    def __enter__(self) -> Waiting:
        print(f"{self._what} ...", end="" if self._live else "\n", file=sys.stderr, flush=True)
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
        text = f"{self._what} ... {self._last - self._start:.0f} s{detail and ', ' + detail}"
        if self._live:
            print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)
