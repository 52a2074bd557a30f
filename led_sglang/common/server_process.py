"""A server of one command's own: started, waited for, and stopped with all its processes."""

from __future__ import annotations

import ctypes
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import psutil
import requests

from led_sglang.common.address import ServerError
from led_sglang.common.ports import listens
from led_sglang.common.terminal import FAILED, uninterrupted
from led_sglang.common.waiting import Waiting

_LOG_TAIL = 2000
# What stands before the sentence of a refusal: ours, and that of SGLang's own parser.
_REFUSAL = re.compile(r"^(?:led-sglang|sglang serve: error): (.*)$", re.MULTILINE)
_PR_SET_PDEATHSIG = 1


# Arguments of the Python interpreter that start a server with LED.
LED_COMMAND = ("-m", "led_sglang.cli", "serve")


@contextmanager
def running_server(
    flags: Sequence[str],
    log: Path,
    timeout_s: float = 3600.0,
    *,
    command: Sequence[str] = LED_COMMAND,
    env: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Run `led-sglang serve` on this machine.

    Args:
        flags: of `led-sglang serve`; without a `--port`, a free one is taken.
        log: file for all the server prints, appended to.
        timeout_s: how long loading may take.
        command: what to run instead.
        env: variables beside those of this process.

    Yields:
        The base URL of the ready server, which is stopped afterwards.

    Raises:
        ServerError: it ended or was not ready in time; carries the end of its log.
    """
    port = _port(flags)
    if port is None:
        port = str(free_port())
        flags = [*flags, "--port", port]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        begin = out.tell()
        process = subprocess.Popen(
            [sys.executable, *command, *flags],
            env=os.environ | (env or {}),
            stdout=out,
            stderr=out,
            start_new_session=True,  # Ctrl-C ends the command first, then the server
            preexec_fn=die_with_parent,  # a killed command must not leave a server on the GPU
        )
    try:
        _wait(process, port, log, begin, timeout_s)
        yield f"http://127.0.0.1:{port}"
    finally:
        with uninterrupted():
            _stop(process)


def free_port() -> int:
    """A port for a server that will take it in a while.

    It is below those that the kernel gives to outgoing connections: one of these could take the
    port while the server loads.
    """
    while True:
        port = random.SystemRandom().randrange(10_000, 30_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def die_with_parent() -> None:
    """Have this process end, by SIGTERM, as soon as the one that started it has ended."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _port(flags: Sequence[str]) -> str | None:
    port = None
    for flag, following in pairwise([*flags, ""]):
        name, equals, value = flag.partition("=")
        if name == "--port":  # the last one counts
            port = value if equals else following
    return port


def _wait(
    process: subprocess.Popen[bytes], port: str, log: Path, begin: int, timeout_s: float
) -> None:
    """Wait until this server answers; one that had the port before does not count."""
    deadline = time.monotonic() + timeout_s
    with Waiting(f"starting a server, which logs to {log}") as waiting:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise ServerError(_last_words(process.returncode, log, begin))
            if _answers(process.pid, port):
                return
            waiting.show()
            time.sleep(0.5)
    raise ServerError(f"the server was not ready after {timeout_s:.0f} s; its log: {log}")


def _last_words(status: int, log: Path, begin: int) -> str:
    """Why a server ended: the sentence of its refusal, or else the end of its log.

    Args:
        begin: where its part of the log begins, in bytes.
    """
    tail = log.read_bytes()[begin:].decode(errors="replace")[-_LOG_TAIL:]
    refusals = _REFUSAL.findall(tail)
    if status == FAILED and refusals:
        return f"the server ended with status {status}: {refusals[-1]}"
    return f"the server ended with status {status}; the end of its log, {log}:\n{tail}"


def _answers(pid: int, port: str) -> bool:
    if not port.isdecimal() or not listens(pid, int(port)):
        return False
    with suppress(requests.RequestException):
        return requests.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and what it started; the accelerator's memory is then free."""
    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        children = []
    if process.poll() is None:
        process.terminate()
    _, alive = psutil.wait_procs(children, timeout=5)
    for child in alive:
        child.kill()
    if process.poll() is None:
        process.kill()
    process.wait()
    psutil.wait_procs(children, timeout=10)
