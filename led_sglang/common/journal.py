"""What is finished, one JSON line each, in a file that outlives kills, full disks and crashes.

A line is finished once its line feed is there. It is written with one `write` to a file opened for
appending, so a kill leaves at most one unfinished line, the last one: it is not read, and the next
line takes its place. A crash of the machine can leave NUL bytes, which JSON does not have: a line
that holds one is not read either.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

_BLOCK_BYTES = 1 << 16


@dataclass(frozen=True)
class Line:
    """A finished line.

    Attributes:
        number: of the line in its file, from 1.
        offset, length: where it lies, in bytes, with its line feed.
    """

    record: dict[str, Any]
    number: int
    offset: int
    length: int


class LineJournal:
    """A file of finished lines, for one process at a time to append to.

    Args:
        path: the file; it and its folder are made when the first line is appended.
        error: the exception that every failure is raised as, with one sentence for the user.
    """

    def __init__(self, path: Path, error: type[Exception]) -> None:
        self.path, self._error = path, error

    def append(self, record: Mapping[str, Any]) -> None:
        """Append a line, whole or not at all; it has left this process when this returns.

        Raises:
            error: it cannot be written; every line that was there still is.
        """
        # Unpaired surrogates, which a server may send, do not encode: escape them.
        line = json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+", buffering=0) as file:
                end = _end_of_finished_lines(file)
                file.truncate(end)
                try:
                    written = file.write(line)
                    if written != len(line):
                        raise OSError(f"only {written} of {len(line)} bytes were written")
                except OSError:
                    file.truncate(end)
                    raise
        except OSError as error:
            raise self._error(
                f"cannot write {self.path}: {error}. Everything finished is kept; make room and "
                "continue with --resume"
            ) from None

    def lines(self) -> Iterator[Line]:
        """The finished lines, one at a time; none where there is no file.

        Raises:
            error: a line is no JSON object, or the file cannot be read; file and line are named.
        """
        try:
            with self.path.open("rb") as file:
                offset = 0
                for number, line in enumerate(file, 1):
                    if line.endswith(b"\n") and b"\0" not in line and line.strip():
                        yield Line(self._record(line, number), number, offset, len(line))
                    offset += len(line)
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._error(f"cannot read {self.path}: {error}") from None

    def _record(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise TypeError(f"it is {type(record).__name__}, not an object")
        except (ValueError, TypeError) as error:
            raise self.bad_line(number, error) from None
        return record

    def bad_line(self, number: int, why: object) -> Exception:
        """The exception for a line that is finished and makes no sense."""
        return self._error(
            f"{self.path}, line {number} was not written by this program ({why}): delete that "
            "line and continue with --resume"
        )


def _end_of_finished_lines(file: FileIO) -> int:
    """Offset behind the last line feed; 0 where there is none."""
    end = file.seek(0, os.SEEK_END)
    size = 1  # nearly always the last byte is a line feed
    while end > 0:
        start = max(0, end - size)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end, size = start, _BLOCK_BYTES
    return 0
