"""Real SGLang servers for tests: start one, ask it, kill it by process id."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import requests
from preloaded import Forked, run_module

from led_sglang.common.server_process import free_port

START_TIMEOUT_S = 600
REQUEST_TIMEOUT_S = 300


Process = subprocess.Popen[bytes] | Forked
# Prompt, `custom_params`, the other sampling parameters.
Body = tuple[Sequence[int], Any, dict[str, Any]]


class Server:
    """A running server; `generate` talks to /generate, `post` to any endpoint."""

    def __init__(self, process: Process, port: int, log: Path) -> None:
        self.process, self.port, self.log = process, port, log
        self.url = f"http://127.0.0.1:{port}"

    def ready_log(self) -> str:
        """All it has printed, its last words on being ready included."""
        deadline = time.monotonic() + REQUEST_TIMEOUT_S
        while "Try it:" not in (text := self.log.read_text(errors="replace")):
            assert time.monotonic() < deadline, text
            time.sleep(0.1)
        return text

    def post(self, path: str, body: dict[str, Any], **kwargs: Any) -> requests.Response:
        return requests.post(self.url + path, json=body, timeout=REQUEST_TIMEOUT_S, **kwargs)

    def get(self, path: str) -> requests.Response:
        return requests.get(self.url + path, timeout=REQUEST_TIMEOUT_S)

    def metrics(self) -> list[tuple[str, dict[str, str], float]]:
        """What Prometheus would read: name, labels and value of each sample."""
        found = re.findall(
            r"^([\w:]+)(?:\{(.*)\})? ([0-9.e+-]+)$", self.get("/metrics").text, re.MULTILINE
        )
        return [
            (name, dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value))
            for name, labels, value in found
        ]

    def generate(self, ids: Sequence[int], custom: Any = None, **sampling: Any) -> dict[str, Any]:
        """One completion of token ids; `custom` is `custom_params`, `sampling` the rest."""
        body = {"input_ids": list(ids), "sampling_params": {"custom_params": custom, **sampling}}
        for key in ("return_logprob", "top_logprobs_num"):
            if key in sampling:
                body[key] = body["sampling_params"].pop(key)
        response = self.post("/generate", body)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def generate_batch(self, bodies: Sequence[Body], **options: Any) -> list[dict[str, Any]]:
        """Completions that reach the scheduler in one message, hence in the same batches each time.

        Args:
            bodies: prompt, `custom_params` and the other sampling parameters of each.
            options: further keys of the request, such as `return_logprob`.
        """
        body = {
            "input_ids": [list(ids) for ids, _, _ in bodies],
            "sampling_params": [
                {"custom_params": custom, **sampling} for _, custom, sampling in bodies
            ],
            **options,
        }
        response = self.post("/generate", body)
        assert response.status_code == 200, response.text
        answers: list[dict[str, Any]] = response.json()
        return answers

    def generate_all(self, bodies: Sequence[Body], concurrency: int = 64) -> list[dict[str, Any]]:
        """Many completions at once, in the order given."""
        with ThreadPoolExecutor(concurrency) as pool:
            return list(pool.map(lambda b: self.generate(b[0], b[1], **b[2]), bodies))


@contextmanager
def serve(
    model: Path | str | None,
    *flags: str,
    command: Sequence[str] = ("-m", "led_sglang.cli", "serve"),
    env: dict[str, str] | None = None,
    device: str | None = "cpu",
) -> Iterator[Server]:
    """Start a server on the CPU platform and stop it afterwards.

    Args:
        model: model folder; None names no model.
        flags: further flags.
        command: arguments of the Python interpreter that start it.
        env: further environment variables.
        device: of `--device`; None leaves the flag out.
    """
    process, port, log = _start_server(model, flags, command, env, device)
    try:
        _wait_until_ready(process, port, log)
        yield Server(process, port, log)
    finally:
        kill(process)


def run_to_the_end(
    model: Path, *flags: str, command: Sequence[str], env: dict[str, str] | None = None
) -> None:
    """Start a server on the CPU platform that ends by itself, and wait for that.

    Args:
        model: model folder.
        flags: further flags.
        command: arguments of the Python interpreter that start it.
        env: further environment variables.
    """
    process, _, log = _start_server(model, flags, command, env, "cpu")
    try:
        process.wait(START_TIMEOUT_S)
        assert process.poll() == 0, f"the server ended with {process.poll()}:\n{tail(log)}"
    finally:
        kill(process)


def _start_server(
    model: Path | str | None,
    flags: Sequence[str],
    command: Sequence[str],
    env: dict[str, str] | None,
    device: str | None,
) -> tuple[Process, int, Path]:
    port = free_port()
    log = Path(tempfile.mkdtemp(prefix="led-server-")) / "log.txt"
    named = [] if model is None else ["--model-path", str(model)]
    arguments = [*command, *named, "--port", str(port)]
    arguments += [] if device is None else ["--device", device]
    arguments += ["--random-seed", "1234", *flags]
    environment = os.environ | {"SGLANG_PLATFORM": "led_cpu", "OMP_NUM_THREADS": "1"} | (env or {})
    return start(arguments, environment, log), port, log


def start(arguments: Sequence[str], environment: dict[str, str], log: Path) -> Process:
    """Start `python ARGUMENTS`, which prints to `log`; a module (`-m`) in a fork of its own."""
    if arguments[0] == "-m":
        return Forked(run_module, arguments[1], arguments[2:], str(log), environment)
    with log.open("wb") as out:
        return subprocess.Popen(
            [sys.executable, *arguments],
            env=environment,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )


# A stock server, the plugin not even loaded; the CPU platform is the same.
PLAIN_COMMAND = ("-m", "sglang.launch_server")
PLAIN_ENVIRONMENT = {"SGLANG_PLUGINS": "none"}


def run_until_exit(
    *flags: str,
    command: Sequence[str] = ("-m", "led_sglang.cli", "serve"),
    env: dict[str, str] | None = None,
    timeout: float = START_TIMEOUT_S,
) -> tuple[int, str]:
    """Start a launch that is expected to be refused; its exit status and all it printed."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | (env or {})
    process = subprocess.Popen(
        [sys.executable, *command, *flags, "--port", str(free_port())],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        kill(process)
        raise
    return process.returncode, output.decode(errors="replace")


def kill(process: Process) -> None:
    """End a server and all it started."""
    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        children = []
    for child in children:
        child.kill()
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 10
    while any(map(_runs, children)) and time.monotonic() < deadline:
        time.sleep(0.02)


def _runs(process: psutil.Process) -> bool:
    """Whether it holds anything still: one that has ended may wait for init to notice."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _wait_until_ready(process: Process, port: int, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"server ended with {process.returncode}:\n{tail(log)}")
        try:
            if requests.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200:
                return
        except requests.RequestException:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"server not ready after {START_TIMEOUT_S} s:\n{tail(log)}")


def assert_progress(errors: str, log: Path, within: Path = Path()) -> None:
    """What a command prints while a server of its own starts: where its log is, and the time.

    Args:
        errors: what it printed on standard error.
        log: the file, as it was named.
        within: the folder in which the command ran.
    """
    waiting = f"starting a server, which logs to {log} ..."
    first, *later = [line for line in errors.splitlines() if line.startswith(waiting)]
    assert first == waiting
    seconds = [int(line.removeprefix(waiting).removesuffix(" s")) for line in later]
    # A line every ten seconds; an interpreter that imports SGLang takes longer.
    assert seconds == sorted(set(seconds))
    assert seconds[0] >= 10
    assert "ready after" in (within / log).read_text()


def assert_led_metrics_join(
    found: Sequence[tuple[str, dict[str, str], float]],
) -> dict[str, str]:
    """LED's counters carry the labels of SGLang's scheduler metrics, which are returned."""
    (own,) = [labels for name, labels, _ in found if name == "sglang:num_running_reqs"]
    assert {"model_name", "engine_type", "tp_rank", "pp_rank", "moe_ep_rank"} <= own.keys()
    ours = [(name, dict(x)) for name, x, _ in found if name.startswith("sglang:led_")]
    assert len({name for name, _ in ours}) > 1
    for name, labels in ours:
        depth = labels.pop("depth", None)
        assert labels == own
        assert (depth is not None) == (name == "sglang:led_depth_tokens_total")
    return own


def tail(log: Path, characters: int = 6000) -> str:
    return log.read_text(errors="replace")[-characters:]


TESTS = Path(__file__).parent.parent


def gsm8k_problems() -> list[str]:
    """Twenty problems of the GSM8K test split (MIT licence)."""
    return _problems(TESTS / "data" / "gsm8k_20.jsonl")


def recorded_tokens(name: str) -> list[list[int]]:
    """Seeded answers of an earlier version's server, by the test that asks for the same."""
    path = TESTS / "data" / "seeded_tokens.json"
    tokens: list[list[int]] = json.loads(path.read_text(encoding="utf-8"))[name]
    return tokens


def held_out_problems() -> list[str]:
    """Twenty problems that the bundled model was not trained on."""
    return _problems(TESTS.parent / "examples" / "tiny_reasoner" / "held_out.jsonl")[:20]


def _problems(file: Path) -> list[str]:
    return [json.loads(line)["problem"] for line in file.read_text().splitlines()]


def chat_ids(tokenizer: Any, text: str, **kwargs: Any) -> list[int]:
    """A chat prompt of one user turn, as the model's template opens the answer."""
    messages = [{"role": "user", "content": text}]
    rendered = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, **kwargs
    )
    ids: list[int] = tokenizer.encode(rendered, add_special_tokens=False)
    return ids
