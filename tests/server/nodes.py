"""A server on two nodes, which are two launches on this machine that meet on loopback."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from harness import Process, Server, kill, serve, start, tail

from led_sglang.common.server_process import free_port

LED_COMMAND = ("-m", "led_sglang.cli", "serve")
_END_TIMEOUT_S = 120


def _meeting(address: str, node: int) -> tuple[str, ...]:
    return ("--nnodes", "2", "--node-rank", str(node), "--dist-init-addr", address)


def _start_node(
    node: int,
    address: str,
    model: Path,
    flags: Sequence[str],
    command: Sequence[str] = LED_COMMAND,
    env: Mapping[str, str] | None = None,
) -> tuple[Process, Path]:
    """One node of two, and its log."""
    log = Path(tempfile.mkdtemp(prefix=f"led-node-{node}-")) / "log.txt"
    arguments = [*command, "--model-path", str(model), "--device", "cpu", "--tp", "2"]
    arguments += [*_meeting(address, node), "--port", str(free_port()), *flags]
    environment = os.environ | {"SGLANG_PLATFORM": "led_cpu", "OMP_NUM_THREADS": "1"} | (env or {})
    # Two nodes of one core each: SGLang wants the cores of all ranks where it cannot tell them.
    environment |= {"SGLANG_CPU_OMP_THREADS_BIND": "0|1"}
    return start(arguments, environment, log), log


@contextmanager
def serve_on_two_nodes(model: Path, *flags: str) -> Iterator[Server]:
    """Tensor parallelism over two nodes; the first one answers."""
    address = f"127.0.0.1:{free_port()}"
    second, log = _start_node(1, address, model, flags)
    try:
        with serve(model, "--tp", "2", *_meeting(address, 0), *flags) as server:
            yield server
            assert "node 1 runs after" in log.read_text(errors="replace")
    finally:
        kill(second)


def ended_nodes(
    model: Path, *nodes: tuple[Sequence[str], Sequence[str], Mapping[str, str]]
) -> list[tuple[int | None, str]]:
    """Start nodes that are expected to refuse each other: exit status and output of each.

    Args:
        nodes: flags, command and environment of each of the two.
    """
    address = f"127.0.0.1:{free_port()}"
    started = [
        _start_node(number, address, model, flags, command, env)
        for number, (flags, command, env) in enumerate(nodes)
    ]
    try:
        for process, log in started:
            with suppress(TimeoutError):
                process.wait(_END_TIMEOUT_S)
            assert process.poll() is not None, f"a node goes on:\n{tail(log)}"
    finally:
        for process, _ in started:
            kill(process)
    return [(process.poll(), log.read_text(errors="replace")) for process, log in started]
