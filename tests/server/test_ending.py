"""Ctrl-C and SIGTERM: a status, no traceback, no process left, and the port free again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from harness import START_TIMEOUT_S, Process, kill, start

from led_sglang.common.server_process import free_port

# What to wait for before the signal: SGLang being imported, its processes starting, all of it up.
IMPORTING, LOADING, SERVING = "starting on", "captured ", "Try it:"


@pytest.mark.parametrize(
    ("number", "moment", "status"),
    [
        (signal.SIGINT, IMPORTING, 130),
        (signal.SIGINT, LOADING, 130),
        (signal.SIGINT, SERVING, 130),
        (signal.SIGTERM, LOADING, 143),
    ],
    ids=["ctrl-c-importing", "ctrl-c-loading", "ctrl-c-serving", "sigterm-loading"],
)
def test_a_signal_ends_it(number: int, moment: str, status: int) -> None:
    """Ctrl-C reaches every process of the terminal; SIGTERM the one it is sent to."""
    port = free_port()
    log = Path(tempfile.mkdtemp(prefix="led-server-")) / "log.txt"
    log.touch()
    command = ["led_sglang.cli", "serve", "--port", str(port), "--device", "cpu"]
    if moment == IMPORTING:  # the forks of other tests find SGLang imported
        with log.open("wb") as out:
            process: Process = subprocess.Popen(
                [sys.executable, "-m", *command], stdout=out, stderr=out, start_new_session=True
            )
    else:
        process = start(["-m", *command], os.environ | {"SGLANG_PLATFORM": "led_cpu"}, log)
    try:
        processes = 0 if moment == IMPORTING else 2
        _wait(lambda: moment in log.read_text(errors="replace"), process)
        _wait(lambda: len(_children(process)) >= processes, process)
        time.sleep(1.0)
        children = _children(process)
        send = os.killpg if number == signal.SIGINT else os.kill
        send(process.pid, number)
        assert process.wait(30) == status, log.read_text()
        _, alive = psutil.wait_procs(children, timeout=5)
        assert not alive
        assert "Traceback" not in log.read_text()
        socket.create_server(("127.0.0.1", port)).close()
    finally:
        kill(process)


def _children(process: Process) -> list[psutil.Process]:
    children: list[psutil.Process] = psutil.Process(process.pid).children(recursive=True)
    return children


def _wait(condition: Callable[[], bool], process: Process) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
