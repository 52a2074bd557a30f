"""A scheduler that dies in the middle of streams: clients hear of it, and a new server serves."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import requests
from harness import Server, serve

# Long enough for SGLang's watchdog on a busy machine, short of any hang.
HEARD_WITHIN_S = 120.0
LED = {"led": {"gate": "always", "depth": 8, "candidates": 8}}
SAMPLING = {"temperature": 0.8, "sampling_seed": 3, "ignore_eos": True}
# Processes with titles of their own: forked ones could not be told apart.
COMMAND = ("-u", "-m", "led_sglang.cli", "serve")


def scheduler_of(server: Server) -> psutil.Process:
    children = psutil.Process(server.process.pid).children(recursive=True)
    return next(child for child in children if "scheduler" in " ".join(child.cmdline()))


def read_stream(server: Server, prompt: Sequence[int], started: list[int]) -> tuple[str, float]:
    """What ended a long stream, and when (monotonic)."""
    body: dict[str, Any] = {
        "input_ids": list(prompt),
        "stream": True,
        "sampling_params": SAMPLING | {"max_new_tokens": 3000, "custom_params": LED},
    }
    last = b""
    try:
        with requests.post(server.url + "/generate", json=body, stream=True, timeout=300) as answer:
            for line in answer.iter_lines():
                if line:
                    started.append(1)
                    last = line
    except requests.RequestException as error:
        return type(error).__name__, time.monotonic()
    return last.decode(), time.monotonic()


def test_killed_scheduler(model_path: Path, prompts: list[Sequence[int]]) -> None:
    quick = SAMPLING | {"max_new_tokens": 16}
    started: list[int] = []
    with serve(model_path, "--dtype", "float32", command=COMMAND) as server:
        before = server.generate(prompts[0], LED, **quick)["output_ids"]
        with ThreadPoolExecutor(4) as pool:
            streams = [pool.submit(read_stream, server, prompts[i], started) for i in range(4)]
            while len(started) < 40:
                time.sleep(0.2)
            killed = time.monotonic()
            os.kill(scheduler_of(server).pid, signal.SIGKILL)
            endings = [stream.result() for stream in streams]
        for ending, when in endings:
            assert when - killed < HEARD_WITHIN_S
            assert "Error" in ending or '"error"' in ending or '"abort"' in ending, ending
        # Nothing is left that would take requests and never answer them.
        assert server.process.wait(HEARD_WITHIN_S) not in (0, None)
    with serve(model_path, "--dtype", "float32") as server:
        assert server.generate(prompts[0], LED, **quick)["output_ids"] == before
