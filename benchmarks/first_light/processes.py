"""One part as a process: its output read as it comes, its time limited, nothing of it left over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from benchmarks.first_light.journal import Journal
from benchmarks.first_light.parts import Part

_CHECKOUT = Path(__file__).parents[2]
# For a server that the part has started, after its limit.
_GRACE_S = 10


def run_part(part: Part, journal: Journal, rehearse: bool) -> None:
    """Run it to its end or its limit. Lines of its output that are JSON objects are findings."""
    out = journal.folder / part.name
    out.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    if rehearse:
        environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        environment |= {"TRITON_INTERPRET": "1"} if part.room == "A" else {}
    begin = time.monotonic()
    process = subprocess.Popen(
        [*part.tool, sys.executable, *part.arguments(rehearse, out)],
        cwd=_CHECKOUT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    assert process.stdout is not None
    last = [""]
    with (out / "log.txt").open("w") as log:
        reader = threading.Thread(target=_read, args=(process.stdout, log, part, journal, last))
        reader.start()
        try:
            status = process.wait(part.limit_s)
            outcome = "ok" if status == 0 else f"failed with status {status}"
        except subprocess.TimeoutExpired:
            outcome = "out of time"
        finally:
            _end(process)
            reader.join()
    failed = outcome != "ok"
    journal.end(part, outcome, time.monotonic() - begin, last[0] if failed else "")


def _read(lines: IO[str], log: IO[str], part: Part, journal: Journal, last: list[str]) -> None:
    for line in lines:
        log.write(line)
        log.flush()
        finding = None
        if line.startswith("{"):
            with suppress(ValueError):
                finding = json.loads(line)
        if finding is not None and "check" in finding:
            journal.found(part, finding)
        elif line.strip():
            last[0] = line.strip()


def _end(process: subprocess.Popen[str]) -> None:
    """End what is left of the part's session: politely, then not."""
    for number, wait_s in ((signal.SIGTERM, _GRACE_S), (signal.SIGKILL, _GRACE_S)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline:
            process.poll()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 0)
                time.sleep(0.1)
                continue
            return
