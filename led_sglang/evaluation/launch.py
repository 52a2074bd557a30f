"""`--launch`: a server of this package, started for the run and ended with it."""

from __future__ import annotations

import ctypes
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from led_sglang.evaluation import EvaluationError

# Weights of large models take this long to load.
_START_TIMEOUT_S = 3600.0
_END_TIMEOUT_S = 30.0
_PR_SET_PDEATHSIG = 1


@contextmanager
def launched(arguments: str, log: Path) -> Iterator[str]:
    """Run `led-sglang serve ARGUMENTS`; yields its URL once it answers.

    Raises:
        EvaluationError: it ended before it answered; the message shows the end of its log.
    """
    words = shlex.split(arguments)
    port = _port(words)
    if port is None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        words += ["--port", str(port)]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "led_sglang.cli", "serve", *words],
            stdout=out,
            stderr=out,
            start_new_session=True,  # Ctrl-C ends the run first, then the server
            preexec_fn=_die_with_parent,  # a killed run must not leave a server on the GPU
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(process, url, log)
        yield url
    finally:
        _end(process)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _port(words: list[str]) -> int | None:
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name == "--port":
            return int(value if equals else following)
    return None


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            end = log.read_text(errors="replace")[-2000:]
            raise EvaluationError(f"the server ended with {process.returncode}; {log}:\n{end}")
        with suppress(urllib.error.URLError, OSError):
            if urllib.request.urlopen(f"{url}/health", timeout=5).status == 200:
                return
        time.sleep(0.5)
    raise EvaluationError(f"the server did not answer within {_START_TIMEOUT_S:.0f} s; see {log}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server and everything in its session."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_END_TIMEOUT_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
