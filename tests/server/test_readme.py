"""The README's commands, run as they stand there (only the port is another)."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Server, serve

README = (Path(__file__).parents[2] / "README.md").read_text()


def block(first_line: str) -> str:
    """The indented block of the README that starts with `first_line`."""
    found = re.search(rf"^    {re.escape(first_line)}.*\n(?:(?:    .*)?\n)*", README, re.MULTILINE)
    assert found, f"the README has no block that starts with {first_line!r}"
    return textwrap.dedent(found.group()).split("\n\n")[0] + "\n"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """What `make serve` starts: no model named."""
    with serve(None) as running:
        assert "bundled model" in running.log.read_text()
        yield running


def test_the_start_ends_with_a_request_to_try(server: Server) -> None:
    """And says nothing else but what stands here: no hooks, no settings, no false warnings."""
    start, _, command = server.ready_log().partition("Try it:\n")
    ours = re.compile(
        r"led-sglang: (no --model-path given|starting on|ready after)|led-sglang [0-9.]+, |-+$|"
        r"(hooks|sampler|think phase|preset|led|captured|  url|  model|  sampler|  kernels) "
    )
    # What the machine may lack, and the progress of loading weights.
    real = re.compile(r"\[[-0-9: ]+\] Fail to set RLIMIT|.*Multi-thread loading shards")
    lines = [line for line in start.splitlines() if line.strip()]
    assert not [line for line in lines if not ours.match(line) and not real.match(line)]
    assert f"  url      {server.url} " in start
    assert "  sampler  led by default" in start
    assert "  kernels  cpu" in start
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=120, check=True
    )
    thought, _, answer = json.loads(done.stdout)["choices"][0]["message"]["content"].partition(
        "</think>"
    )
    assert "done" in thought
    assert answer.strip()


def here(text: str, server: Server) -> str:
    assert "30000" in text
    return text.replace("30000", str(server.port))


def test_curl(server: Server) -> None:
    command = here(block("curl localhost:30000/v1/chat/completions"), server)
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=120, check=True
    )
    choice = json.loads(done.stdout)["choices"][0]
    thought, _, answer = choice["message"]["content"].partition("</think>")
    assert "done" in thought
    assert answer.strip() == "6245317"
    led = choice["meta_info"]["led"]
    assert led["explored_tokens"] > 0
    assert led["think_tokens"] >= led["explored_tokens"]


def test_openai_python(server: Server) -> None:
    code = here(block("from openai import OpenAI"), server)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert re.search(r"'explored_tokens': [1-9]", done.stdout), done.stdout
