"""Helpers of the evaluation tests: a fake engine in a thread, and the command itself."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from fake_engine import FakeEngine

from led_sglang.common.server_process import free_port
from led_sglang.evaluation.tasks import load_task

TASKS = ("aime24", "aime25", "math500", "gsm8k")


def gold_answers(limit: int = 5) -> dict[str, str]:
    """Gold answers of the first problems by problem, as a fake engine needs them."""
    return {
        item.problem: item.expected_answer
        for name in TASKS
        for item in load_task(name, limit=limit).items
    }


def engine(**options: Any) -> FakeEngine:
    """A fake engine that is right about the first problems of every task."""
    return FakeEngine(answers=gold_answers(), **options)


@contextmanager
def running(fake: FakeEngine) -> Iterator[str]:
    """Serve a fake engine in a thread; yields its URL."""
    loop, port = asyncio.new_event_loop(), free_port()
    runner = web.AppRunner(fake.application(), access_log=None)

    async def start() -> None:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()

    loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def eval_command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "led_sglang.cli", "eval", *map(str, arguments)]


def led_eval(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `led-sglang eval` to its end."""
    return subprocess.run(
        eval_command(*arguments), capture_output=True, text=True, timeout=500, **options
    )


def small_grid(url: str, run_dir: Path, *more: object, tasks: Sequence[str] = TASKS) -> list[Any]:
    """Arguments of a run of 5 problems a task, 2 samplers, 2 temperatures, n = 4."""
    return [
        *("--base-url", url, "--run-dir", run_dir, "--tasks", ",".join(tasks), "--limit", 5),
        *("--samplers", "regular,led", "--temperatures", "0.1,0.6", "--n", 4),
        *("--max-tokens", 256, "--concurrency", 8, "--grade-workers", 1, *more),
    ]


def records(run_dir: Path) -> list[dict[str, Any]]:
    """Every stored sample of a run, but for the time at which it was finished."""
    files = sorted(run_dir.glob("samples/*/*/*/output-rs*.jsonl"))
    # Not splitlines: a text may hold other line separators of Unicode.
    found = [json.loads(line) for file in files for line in file.open(newline="\n")]
    return [{key: value for key, value in row.items() if key != "finished"} for row in found]
