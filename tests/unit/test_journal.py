"""A journal after kills, full disks and crashes: what is finished is read, and nothing else."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from led_sglang.common.journal import LineJournal


class JournalError(Exception):
    """As a tool's own exception."""


RECORDS: list[dict[str, Any]] = [
    {"id": "a", "text": "two\nlines and \u2028 another separator"},
    {"id": "b", "text": "ünïcödé, \x00 and \ud800, half a pair"},
    {"id": "c", "values": [1.5, None, {"x": True}]},
]
NEW = {"id": "new"}


def journal_at(path: Path) -> LineJournal:
    return LineJournal(path, JournalError)


def records(path: Path) -> list[dict[str, Any]]:
    return [line.record for line in journal_at(path).lines()]


def written(path: Path) -> bytes:
    for record in RECORDS:
        journal_at(path).append(record)
    return path.read_bytes()


def test_lines_are_read_as_they_were_appended(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "j.jsonl"
    assert records(path) == []
    content = written(path)
    assert records(path) == RECORDS
    for line in journal_at(path).lines():
        piece = content[line.offset : line.offset + line.length]
        assert json.loads(piece) == RECORDS[line.number - 1]


def test_cut_at_any_byte_the_finished_lines_stay_and_the_next_one_is_whole(tmp_path: Path) -> None:
    content = written(tmp_path / "whole.jsonl")
    path = tmp_path / "cut.jsonl"
    for size in range(len(content) + 1):
        path.write_bytes(content[:size])
        finished = RECORDS[: content[:size].count(b"\n")]
        assert records(path) == finished
        journal_at(path).append(NEW)
        assert records(path) == [*finished, NEW]
        assert path.read_bytes().startswith(content[: content[:size].rfind(b"\n") + 1])


def test_a_cut_line_longer_than_a_block_is_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    content = written(path)
    path.write_bytes(content + b'{"text": "' + b"x" * 300_000)
    journal_at(path).append(NEW)
    assert path.read_bytes() == content + b'{"id": "new"}\n'
    path.write_bytes(b"x" * 300_000)
    journal_at(path).append(NEW)
    assert path.read_bytes() == b'{"id": "new"}\n'


@pytest.mark.parametrize(
    ("damage", "kept"),
    [
        (lambda c: c + bytes(5000), [0, 1, 2]),
        (lambda c: bytes(len(c)), []),
        (lambda c: c[:-9] + bytes(9), [0, 1]),
        (lambda c: bytes(20) + c[20:], [1, 2]),
        (lambda c: c + bytes(70_000) + b'"half a line"}\n', [0, 1, 2]),
    ],
)
def test_nul_bytes_of_a_crash_are_no_lines(tmp_path: Path, damage: Any, kept: list[int]) -> None:
    path = tmp_path / "j.jsonl"
    path.write_bytes(damage(written(path)))
    finished = [RECORDS[i] for i in kept]
    assert records(path) == finished
    journal_at(path).append(NEW)
    assert records(path) == [*finished, NEW]


@pytest.mark.parametrize("room", [0, 1, 40])
def test_a_full_disk_leaves_the_finished_lines_and_says_so(tmp_path: Path, room: int) -> None:
    """A limit on the size of files stands in for the disk: the kernel writes a part."""
    path = tmp_path / "j.jsonl"
    content = written(path) if room != 1 else b""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(content) + room, before[1]))
    try:
        with pytest.raises(JournalError, match=r"cannot write .*j\.jsonl.*--resume"):
            journal_at(path).append({"text": "x" * 100})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == content
    journal_at(path).append(NEW)
    assert path.read_bytes() == content + b'{"id": "new"}\n'


def test_a_line_is_on_its_way_to_the_disk_when_append_returns(tmp_path: Path) -> None:
    """A kill right after it, as hard as can be, takes nothing."""
    path = tmp_path / "j.jsonl"
    program = (
        "import os, sys; from pathlib import Path\n"
        "from led_sglang.common.journal import LineJournal\n"
        "journal = LineJournal(Path(sys.argv[1]), OSError)\n"
        "for i in range(3): journal.append({'i': i})\n"
        "os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", program, path], check=False).returncode == -9
    assert records(path) == [{"i": 0}, {"i": 1}, {"i": 2}]


@pytest.mark.parametrize("line", [b'{"id": "a"', b"[1]", b"3", b'{"a": 1}{"b": 2}', b"\xff\xfe"])
def test_a_line_of_another_hand_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "j.jsonl"
    content = written(path)
    path.write_bytes(content + line + b"\n" + content)
    with pytest.raises(JournalError, match=r"j\.jsonl, line 4 .*delete that line"):
        records(path)
    path.write_bytes(content + b"\n" + content)  # deleted, and an empty line left behind
    assert records(path) == RECORDS * 2


def test_a_journal_that_cannot_be_opened_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "j.jsonl"):
        with pytest.raises(JournalError, match="cannot write"):
            journal_at(path).append(NEW)
    with pytest.raises(JournalError, match="cannot read"):
        records(tmp_path)
