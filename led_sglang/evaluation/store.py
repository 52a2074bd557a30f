"""The run directory: settings, one JSON line a finished sample, resume.

    run.json                                            settings (the fingerprint) and server
    sessions.jsonl                                      one line each time the run was started
    samples/TASK/SAMPLER/T0.6/output-rs3.jsonl          sample 3 of each problem
    code_verdicts.jsonl                                 verdicts of executed code
    metrics.json report.html report.md plots/ pages/    written at the end
    traces/TASK/SAMPLER/T0.6/ITEM-3.html                by `led-sglang trace --from-run`

Every `.jsonl` is a `LineJournal`: what is finished stays, and an interrupted sample is simply asked
for again.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from led_sglang.common.journal import LineJournal
from led_sglang.evaluation import EvaluationError


@dataclass(frozen=True, order=True)
class Key:
    """Names one sample of a run."""

    task: str
    sampler: str
    temperature: float
    item: str
    sample: int


# The keys of a record that hold it.
_KEY_OF_A_RECORD = ("task", "sampler", "temperature", "id", "sample")


@dataclass(frozen=True)
class Stored:
    """A finished sample: its record, and where its line lies (path relative to the run)."""

    key: Key
    record: dict[str, Any]
    path: str
    offset: int
    length: int


class RunStore:
    """One run directory, for one process at a time when opened for writing."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.settings_path = folder, folder / "run.json"
        self._lock: int | None = None
        self.is_open = False

    def open(self, settings: Mapping[str, Any], *, resume: bool) -> None:
        """Start or continue the run.

        Args:
            settings: everything that must not change once a sample is finished, as JSON.

        Raises:
            EvaluationError: another process writes here, there are samples already, or a setting
                differs; the message names it.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.folder / "lock", os.O_CREAT | os.O_RDWR, 0o644)
        except OSError as error:
            raise EvaluationError(f"cannot write to {self.folder}: {error}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EvaluationError(f"another process is running in {self.folder}") from None
        self.check_start(resume=resume)
        if not self.holds_samples():
            write_atomically(self.settings_path, json.dumps(settings, indent=1))
            (self.folder / "sessions.jsonl").unlink(missing_ok=True)
        elif different := differences(self.settings(), settings):
            raise EvaluationError(
                f"{self.folder} was started with other settings, and mixing them would make its "
                "numbers meaningless:\n  " + "\n  ".join(different)
            )
        self.is_open = True

    def check_start(self, *, resume: bool) -> None:
        """Refuse, by an EvaluationError, to add to finished samples without `resume`."""
        if not resume and self.holds_samples():
            raise EvaluationError(
                f"{self.folder} already holds a run: add --resume to continue it, or choose "
                "another --run-dir"
            )

    def holds_samples(self) -> bool:
        """Whether any sample is finished; until then a run may start over with other settings."""
        return next(self.samples(), None) is not None

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def settings(self) -> dict[str, Any]:
        """Settings of the run.

        Raises:
            EvaluationError: there is no run here.
        """
        try:
            settings: dict[str, Any] = json.loads(self.settings_path.read_text())
        except FileNotFoundError:
            raise EvaluationError(f"{self.folder} holds no run (no run.json)") from None
        except ValueError as error:
            raise EvaluationError(
                f"{self.settings_path} cannot be read ({error}): put it back, or choose another "
                "--run-dir"
            ) from None
        # Earlier versions knew no other seeds.
        settings["grid"].setdefault("seed_per_sample", True)
        return settings

    def sessions(self) -> list[dict[str, Any]]:
        """The starts of the run, with what may change from one to the next."""
        return [line.record for line in self.journal("sessions.jsonl").lines()]

    def journal(self, name: str | Path) -> LineJournal:
        """A file of finished lines in the run's folder."""
        return LineJournal(self.folder / name, EvaluationError)

    def append_sample(self, key: Key, record: Mapping[str, Any]) -> None:
        """Keep a finished sample.

        Raises:
            EvaluationError: it cannot be written (disk full); what was there is untouched.
        """
        self.journal("samples" / sample_path(key)).append(record)

    def samples(self) -> Iterator[Stored]:
        """Every finished sample, one at a time, in the order of files and lines.

        Raises:
            EvaluationError: a bad line or a sample stored twice; file and line are named.
        """
        seen: set[Key] = set()
        for path in sorted((self.folder / "samples").glob("*/*/*/output-rs*.jsonl")):
            relative = path.relative_to(self.folder)
            journal = self.journal(relative)
            for line in journal.lines():
                try:
                    key = Key(*map(line.record.__getitem__, _KEY_OF_A_RECORD))
                except KeyError as error:
                    raise journal.bad_line(line.number, f"no key {error}") from None
                if key in seen:
                    raise journal.bad_line(line.number, f"{key} is there twice")
                seen.add(key)
                yield Stored(key, line.record, str(relative), line.offset, line.length)

    def read(self, stored: Stored) -> dict[str, Any]:
        """The record of a sample whose `record` was dropped to save memory."""
        with (self.folder / stored.path).open("rb") as file:
            file.seek(stored.offset)
            return dict(json.loads(file.read(stored.length)))


def sample_path(key: Key) -> Path:
    """Where a sample's line is, below `samples/`."""
    folder = Path(key.task) / key.sampler / f"T{key.temperature:g}"
    return folder / f"output-rs{key.sample}.jsonl"


def trace_path(key: Key) -> Path:
    """Where `led-sglang trace --from-run` puts a sample's page, below the run directory."""
    folder = Path("traces") / key.task / key.sampler / f"T{key.temperature:g}"
    return folder / f"{file_name(key.item)}-{key.sample}.html"


def file_name(item: str) -> str:
    """A problem's id as a part of a file's name; distinct ids stay distinct."""
    return re.sub(r"[^A-Za-z0-9.-]", lambda match: f"_{ord(match[0]):x}_", item)


def write_atomically(path: Path, text: str) -> None:
    """Replace a file so that a kill leaves the old or the new one.

    Raises:
        EvaluationError: it cannot be written.
    """
    scratch = path.with_name(f".{path.name}.writing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(text, encoding="utf-8", errors="backslashreplace")
        scratch.replace(path)
    except OSError as error:
        raise EvaluationError(f"cannot write {path}: {error}. Finished samples are kept") from None


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """Settings that differ, each as `dotted.name: old -> new`."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found = []
        for key in sorted({*old, *new}):
            inner = f"{name}.{key}" if name else str(key)
            found += differences(old.get(key), new.get(key), inner)
        return found
    # Tuples and lists are the same thing once they have been JSON.
    if json.dumps(old) == json.dumps(new):
        return []
    return [f"{name}: {json.dumps(old)} -> {json.dumps(new)}"]
