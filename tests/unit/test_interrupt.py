"""Commands whose server takes its time: what they show, and Ctrl-C as a terminal sends it, to the
command and to all it has started in its group."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
from eval_harness import engine, running
from fake_engine import FakeEngine

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
    """A server of SGLang's kind that answers with one token at once, and never with more."""

    def do_GET(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or "{}")
        answer: dict[str, Any]
        if self.path != "/generate":
            answer = ANSWERS[self.path]
        elif asked["sampling_params"]["max_new_tokens"] == 1:
            custom = asked["sampling_params"]["custom_params"]
            name = custom["sampler"]
            made_by = {"name": name, "settings": custom.get(name, {})}
            answer = {"text": "a", "meta_info": {"sampler": made_by}}
        else:
            self.server.asked.set()  # type: ignore[attr-defined]
            time.sleep(600)
        body = json.dumps(answer).encode()
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


COMMAND = ("-m", "led_sglang.cli")


def interrupted(
    arguments: list[str],
    begun: Callable[[psutil.Process], bool],
    program: tuple[str, ...] = COMMAND,
) -> tuple[int, str]:
    """Status and error output of a command that got Ctrl-C once it had begun; nothing survives."""
    process = subprocess.Popen(
        [sys.executable, *program, *arguments],
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


@pytest.mark.parametrize("command", ["bench", "analyze", "eval"])
def test_while_a_server_of_its_own_starts(command: str, tmp_path: Path) -> None:
    arguments = [command, "--model-path", str(bundled_model()), "--device", "cpu"]
    arguments += ["--out", str(tmp_path)]
    if command == "eval":
        launch = shlex.join(arguments[1:5])
        arguments = ["eval", "--launch", launch, "--run-dir", str(tmp_path)]
        arguments += ["--tasks", "gsm8k", "--samplers", "led"]
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
    assert f"starting a server, which logs to {tmp_path / 'server.log'} ...\n" in errors


# What `led-sglang eval` is busy with when Ctrl-C comes, and what it still says.
NONE = "stopped before a sample was finished"
ENDLESS = "</think>```python\nwhile True: pass\n```"
WHILE_IT: dict[str, tuple[FakeEngine, str]] = {
    "generates": (engine(delay=5), NONE),
    "grades": (
        engine(says="</think>\\boxed{9^{9^{9^{9^9}}}}"),
        "stopped before a sample was finished",
    ),
    "runs programs": (
        engine(says="</think>```python\nwhile True: pass\n```"),
        "led-sglang: interrupted",
    ),
}


@pytest.mark.parametrize("doing", WHILE_IT)
def test_eval_while_it(doing: str, tmp_path: Path) -> None:
    fake, words = WHILE_IT[doing]
    tests = {"inputs": ["1"], "outputs": ["2"], "fn_name": None}
    item = {"id": "1", "problem": "One more.", "expected_answer": "2", "tests": tests}
    (tmp_path / "items.jsonl").write_text(json.dumps(item) + "\n")
    task = "livecodebench" if doing == "runs programs" else "aime24"

    def begun(process: psutil.Process) -> bool:
        if doing == "generates":
            return fake.in_flight > 0
        started = "solution.py" if doing == "runs programs" else "grading.worker"
        with suppress(psutil.Error):
            for child in process.children(recursive=True):
                # Of a worker that only loads what it grades with, too; longer than that takes.
                busy = sum(child.cpu_times()[:2]) > (5 if doing == "grades" else 0.2)
                if busy and any(started in word for word in child.cmdline()):
                    return True
        return False

    with running(fake) as url:
        arguments = ["eval", "--base-url", url, "--run-dir", str(tmp_path / "run")]
        arguments += ["--tasks", task, "--data", f"{task}={tmp_path / 'items.jsonl'}"]
        arguments += ["--samplers", "regular", "--temperatures", "0.6", "--n", "1"]
        arguments += ["--grade-timeout", "120", "--execute-code"]
        status, errors = interrupted(arguments, begun)
    assert status == 130, errors
    assert errors.rstrip().splitlines()[-1].endswith(words)
    assert "Traceback" not in errors


# `led-sglang bench` on a server that is there already, whose first runs have known results.
BENCH = """
import sys
from contextlib import contextmanager
from led_sglang.bench import command
from led_sglang.cli import main

URL, RUNS = sys.argv.pop(1), []

class Load(command.LoadGenerator):
    def run(self, *arguments):
        RUNS.append(arguments)
        if len(RUNS) <= 6:  # two to warm up, and two pairs
            return {"ttfts": [0.1], "itls": [[0.1] * 9], "output_throughput": 10.0}
        return super().run(*arguments)

@contextmanager
def there(*_):
    yield URL

command.running_server, command.LoadGenerator = there, Load
command.machine = lambda device: {"processor": "a processor", "copy_gb_per_s": 1.0, "versions": ""}
sys.exit(main())
"""


def test_bench_in_the_middle_of_its_pairs(slow: ThreadingHTTPServer, tmp_path: Path) -> None:
    arguments = [f"http://127.0.0.1:{slow.server_port}", "bench", "--model-path", "M"]
    arguments += ["--batch-sizes", "1", "--repeats", "3", "--context", "8", "--output-len", "9"]
    arguments += ["--out", str(tmp_path)]

    def begun(process: psutil.Process) -> bool:
        journal = tmp_path / "runs.jsonl"
        lines = journal.read_text().count("\n") if journal.exists() else 0
        # The settings, two pairs; and the generator of the third one's load.
        return lines == 3 and len(process.children()) == 1

    status, errors = interrupted(arguments, begun, ("-c", BENCH))
    assert status == 130, errors
    *_, kept, last = errors.splitlines()
    assert kept == f"2 finished pairs are kept in {tmp_path}; --resume goes on"
    assert last == "led-sglang: interrupted"
    assert "Traceback" not in errors
    assert "| 1 | led" in (tmp_path / "bench.md").read_text()


def test_doctor_while_it_imports_sglang() -> None:
    begun = time.monotonic() + 2
    status, errors = interrupted(["doctor"], lambda _: time.monotonic() > begun)
    assert (status, "Traceback" in errors) == (130, False), errors
