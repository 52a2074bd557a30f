"""Commands whose server takes its time: what they show, and Ctrl-C as a terminal sends it, to the
command and to all it has started in its group."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from led_sglang.common.client import ServerClient
from led_sglang.models.bundled import bundled_model
from led_sglang.trace import Trace
from led_sglang.trace.command import generated

LED = {
    "settings": {"depth": 8, "candidates": 8, "layers": "paper", "captured_layers": [9]},
    "totals": {"think_tokens": 0},
}
ANSWERS = {
    "/server_info": {"internal_states": [{"led": LED}]},
    "/model_info": {"model_path": str(bundled_model())},
    "/v1/models": {"data": [{"max_model_len": 2048}]},
    "/tokenize": {"tokens": [1, 2, 3]},
}


class Slow(BaseHTTPRequestHandler):
    """A server of SGLang's kind that never comes to the end of an answer."""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.path == "/generate":
            self.server.asked.set()  # type: ignore[attr-defined]
            time.sleep(600)
        body = json.dumps(ANSWERS[self.path]).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def slow() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_trace_shows_the_time_and_the_tokens_of_a_long_thought(
    slow: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("led_sglang.common.waiting._LINE_EVERY_S", 0.0)
    totals, finished = {"think_tokens": 100}, Trace(())
    monkeypatch.setitem(LED, "totals", totals)

    def ask() -> Trace:
        totals["think_tokens"] += 42
        time.sleep(1.3)
        return finished

    client = ServerClient(f"127.0.0.1:{slow.server_port}")
    assert generated(ask, client, "led") is finished
    first, *later = capsys.readouterr().err.splitlines()
    assert first == "led: generating ..."
    assert len(later) >= 2
    assert all(re.match(r"led: generating \.\.\. [01] s, 42 tokens of thought", x) for x in later)


def interrupted(arguments: list[str], begun: Callable[[psutil.Process], bool]) -> tuple[int, str]:
    """Status and error output of a command that got Ctrl-C once it had begun; nothing survives."""
    process = subprocess.Popen(
        [sys.executable, "-m", "led_sglang.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    started: list[psutil.Process] = []
    try:
        seen = psutil.Process(process.pid)
        deadline = time.monotonic() + 240
        while not begun(seen):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.1)
        started = seen.children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        _, alive = psutil.wait_procs(started, timeout=5)
        assert alive == []
    finally:
        process.kill()
        for child in started:
            if child.is_running():
                child.kill()
    return process.returncode, errors


@pytest.mark.parametrize("command", ["trace", "analyze"])
def test_while_a_server_generates(command: str, slow: ThreadingHTTPServer, tmp_path: Path) -> None:
    asked = slow.asked = threading.Event()  # type: ignore[attr-defined]
    arguments = [command, "--base-url", f"127.0.0.1:{slow.server_port}", "--out"]
    if command == "trace":
        arguments += [str(tmp_path / "trace.html"), "--prompt", "x"]
    else:
        (tmp_path / "prompts.txt").write_text("one\ntwo\n")
        arguments += [str(tmp_path / "report"), "--prompts", str(tmp_path / "prompts.txt")]
    status, errors = interrupted(arguments, lambda _: asked.is_set())
    assert status == 130, errors
    assert errors.endswith("led-sglang: interrupted\n")
    assert "Traceback" not in errors
    assert not (tmp_path / "trace.html").exists()


@pytest.mark.parametrize("command", ["bench", "analyze"])
def test_while_a_server_of_its_own_starts(command: str, tmp_path: Path) -> None:
    arguments = [command, "--model-path", str(bundled_model()), "--device", "cpu"]
    arguments += ["--out", str(tmp_path)]
    if command == "analyze":
        (tmp_path / "prompts.txt").write_text("one\n")
        arguments += ["--prompts", str(tmp_path / "prompts.txt")]

    def begun(process: psutil.Process) -> bool:
        with suppress(psutil.Error):  # another child that has just ended
            return any("serve" in child.cmdline() for child in process.children())
        return False

    status, errors = interrupted(arguments, begun)
    assert status == 130, errors
    assert errors.endswith("led-sglang: interrupted\n")
    assert "Traceback" not in errors


def test_doctor_while_it_imports_sglang() -> None:
    begun = time.monotonic() + 2
    status, errors = interrupted(["doctor"], lambda _: time.monotonic() > begun)
    assert (status, "Traceback" in errors) == (130, False), errors
