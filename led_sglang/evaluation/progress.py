"""The progress bar: samples, accuracy so far, tokens a second, time left."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

# Where the output is a file, a new line is written this often.
_FILE_INTERVAL_S = 15.0


class Progress(tqdm):
    """A bar on standard error; `correct` and `graded` count the samples found at the start."""

    def __init__(self, total: int, done: int, correct: int, graded: int) -> None:
        self._correct, self._graded, self._tokens = correct, graded, 0
        self._start = time.monotonic()
        on_terminal = sys.stderr.isatty()
        self._interval = 1.0 if on_terminal else _FILE_INTERVAL_S
        super().__init__(
            total=total,
            initial=done,
            unit="sample",
            dynamic_ncols=on_terminal,
            mininterval=0.2 if on_terminal else _FILE_INTERVAL_S,
        )

    async def keep_time(self) -> None:
        """Show the time that has passed until cancelled: a first sample may take minutes."""
        while True:
            await asyncio.sleep(self._interval)
            self.refresh()

    def add(self, record: Mapping[str, Any]) -> None:
        """Count a finished sample."""
        self._tokens += record["num_generated_tokens"]
        if record["symbolic_correct"] is not None:
            self._graded += 1
            self._correct += record["symbolic_correct"]
        speed = self._tokens / max(time.monotonic() - self._start, 1e-9)
        accuracy = f"{100 * self._correct / self._graded:.1f}%" if self._graded else "-"
        self.set_postfix_str(f"accuracy {accuracy}, {speed:,.0f} tok/s", refresh=False)
        self.update()
