"""What a long traced answer costs: a real server, the response, the page, the browser.

    python benchmarks/trace_server.py --tokens 30000

Serves a tiny random Qwen3 and asks for the same long answer without and with the trace. The model
is so small that the trace's share of a step is an upper bound.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "server"))

import requests
from browser import Viewer, chromium

from led_sglang.common.client import ServerClient
from led_sglang.common.server_process import running_server
from led_sglang.models.random_qwen3 import write_random_qwen3
from led_sglang.trace import write_page
from led_sglang.trace.ask import run_trace

PROMPT = "What is 2 + 3?"
TIMEOUT_S = 3600
MIB = 2**20


def measure(url: str, tokens: int, folder: Path) -> None:
    """Print the figures of one answer of a running server; the page is left in `folder`."""
    client = ServerClient(url, TIMEOUT_S)
    sampling = {"temperature": 0.6, "sampling_seed": 1, "ignore_eos": True}
    ids = client.chat_tokens(PROMPT)
    client.generate(ids, {**sampling, "max_new_tokens": 64})  # warm
    sampling["max_new_tokens"] = tokens
    for traced in (False, True):
        custom = {"sampler": "led", "led": {"trace": traced}}
        body = {"input_ids": ids, "sampling_params": {**sampling, "custom_params": custom}}
        begin = time.perf_counter()
        answer = requests.post(url + "/generate", json=body, timeout=TIMEOUT_S)
        seconds = time.perf_counter() - begin
        count = len(answer.json()["output_ids"])
        print(
            f"{count:,} tokens, trace {'on' if traced else 'off'}: {seconds:.1f} s, "
            f"{count / seconds:.0f} tokens/s, {len(answer.content) / MIB:.1f} MiB of JSON",
            flush=True,
        )
    begin = time.perf_counter()
    trace = run_trace(client, PROMPT, sampling=sampling)
    asked = time.perf_counter()
    page = write_page([trace], folder / "trace.html")
    written = time.perf_counter()
    print(
        f"led-sglang trace: {asked - begin:.1f} s for the answer and its texts, "
        f"{written - asked:.1f} s for a page of {page.stat().st_size / MIB:.1f} MiB",
        flush=True,
    )
    with chromium(folder / "profile") as browser:
        viewer = Viewer(browser, page)
        ready = "return performance.getEntriesByName('led-ready')[0].startTime"
        print(f"opens in {viewer.script(ready):.0f} ms", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=30_000)
    arguments = parser.parse_args()
    room = arguments.tokens + 1024
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = write_random_qwen3(folder / "model", max_position=room)
        flags = ["--model-path", str(model), "--max-total-tokens", str(room), "--sleep-on-idle"]
        with running_server(flags, folder / "log.txt") as url:
            measure(url, arguments.tokens, folder)


if __name__ == "__main__":
    main()
