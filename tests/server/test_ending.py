"""Ctrl-C and SIGTERM: a status, no traceback, no process left, and the port free again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from harness import START_TIMEOUT_S, Process, kill, start

from led_sglang.common.server_process import free_port

# What to wait for before the signal: SGLang being imported, its processes starting, all of it up.
IMPORTING, LOADING, SERVING = "starting on", "captured ", "Try it:"
# Longer than any test waits.
TOKENS = 2_000


class Launch:
    """A `led-sglang serve` that a signal will end."""

    def __init__(self, *flags: str, importing: bool = False) -> None:
        self.port = free_port()
        self.log = Path(tempfile.mkdtemp(prefix="led-server-")) / "log.txt"
        self.log.touch()
        command = ["led_sglang.cli", "serve", "--port", str(self.port), "--device", "cpu", *flags]
        self.process: Process
        if importing:  # the forks of other tests find SGLang imported
            with self.log.open("wb") as out:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", *command], stdout=out, stderr=out, start_new_session=True
                )
        else:
            environment = os.environ | {"SGLANG_PLATFORM": "led_cpu", "OMP_NUM_THREADS": "1"}
            self.process = start(["-m", *command], environment, self.log)

    def children(self) -> list[psutil.Process]:
        found: list[psutil.Process] = psutil.Process(self.process.pid).children(recursive=True)
        return found

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not condition():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def wait_for_line(self, text: str) -> None:
        self.wait_for(lambda: text in self.log.read_text(errors="replace"))

    def ask(self, stream: bool = False, max_new_tokens: int = TOKENS) -> requests.Response:
        """A generation; a stream's answer is still to be read."""
        sampling = {"max_new_tokens": max_new_tokens, "ignore_eos": True}
        body = {"text": "Doors:", "stream": stream, "sampling_params": sampling}
        url = f"http://127.0.0.1:{self.port}/generate"
        return requests.post(url, json=body, stream=stream, timeout=120)

    def wait_for_requests(self, number: int) -> None:
        """Until so many are decoding."""
        url = f"http://127.0.0.1:{self.port}/v1/loads"
        load = lambda: requests.get(url, timeout=60).json()["loads"][0]  # noqa: E731
        self.wait_for(lambda: load()["num_running_reqs"] >= number)

    def ends(self, number: int, status: int, within_s: float, times: int = 1) -> None:
        """Send a signal and see what is left."""
        children = self.children()
        # Ctrl-C reaches every process of the terminal; SIGTERM the one it is sent to.
        send = os.killpg if number == signal.SIGINT else os.kill
        for _ in range(times):
            send(self.process.pid, number)
            time.sleep(0.3)
        assert self.process.wait(within_s) == status, self.log.read_text()
        _, alive = psutil.wait_procs(children, timeout=5)
        assert not alive
        log = self.log.read_text()
        assert "Traceback" not in log
        assert "crashed" not in log
        socket.create_server(("127.0.0.1", self.port)).close()


@contextmanager
def launched(*flags: str, importing: bool = False) -> Iterator[Launch]:
    launch = Launch(*flags, importing=importing)
    try:
        yield launch
    finally:
        kill(launch.process)


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
    with launched(importing=moment == IMPORTING) as launch:
        launch.wait_for_line(moment)
        launch.wait_for(lambda: len(launch.children()) >= (0 if moment == IMPORTING else 2))
        time.sleep(1.0)
        launch.ends(number, status, within_s=30)


def finish(answer: dict[str, Any]) -> tuple[str, int]:
    info = answer["meta_info"]
    return info["finish_reason"]["type"], info["completion_tokens"]


def test_ctrl_c_while_requests_run() -> None:
    """They are aborted after a moment; a client that does not read its stream holds up nothing."""
    with launched("--tp", "2") as launch, ThreadPoolExecutor() as pool:
        launch.wait_for_line(SERVING)
        whole = pool.submit(launch.ask)
        events = pool.submit(lambda: launch.ask(stream=True).text.splitlines())
        unread = launch.ask(stream=True)
        launch.wait_for_requests(3)
        launch.ends(signal.SIGINT, 130, within_s=15)
        log = launch.log.read_text()
        assert "3 running request(s) are aborted in 2 s" in log
        for noise in ("allreduce", "multimem", "No CUDA runtime"):  # of ranks without a GPU
            assert noise not in log
        *_, last, done = filter(None, events.result(5))
        assert done == "data: [DONE]"
        for answer in (whole.result(5).json(), json.loads(last.removeprefix("data: "))):
            reason, tokens = finish(answer)
            assert reason == "abort"
            assert 0 < tokens < TOKENS
        unread.close()


def test_ctrl_c_twice_ends_at_once() -> None:
    with launched() as launch, ThreadPoolExecutor() as pool:
        launch.wait_for_line(SERVING)
        answer = pool.submit(launch.ask)
        launch.wait_for_requests(1)
        launch.ends(signal.SIGINT, 130, within_s=1.5, times=2)
        # As far as the connection still carries one.
        assert answer.exception(5) is not None or answer.result().status_code == 500


def test_sigterm_finishes_what_runs() -> None:
    with launched() as launch, ThreadPoolExecutor() as pool:
        launch.wait_for_line(SERVING)
        answer = pool.submit(launch.ask, max_new_tokens=200)
        launch.wait_for_requests(1)
        launch.ends(signal.SIGTERM, 0, within_s=60)
        assert finish(answer.result(5).json()) == ("length", 200)
