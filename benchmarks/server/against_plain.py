"""LED's server with `regular` requests alone against a server without the plugin, alternately."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import psutil

from led_sglang.bench import BenchError
from led_sglang.bench.command import plan_of, read_flags
from led_sglang.bench.load import LoadGenerator
from led_sglang.bench.machine import machine
from led_sglang.bench.measure import Journal, run_plan
from led_sglang.bench.plan import Arm, Plan, regular
from led_sglang.bench.report import write_report
from led_sglang.bench.watch import ServerView
from led_sglang.common.client import ServerError
from led_sglang.common.server_process import LED_COMMAND, running_server

_PLAIN_COMMAND = ("-m", "sglang.launch_server")
# The plain server sends no parameters of ours: it would not know them.
_PLAIN = Arm("plain server", None, server="plain")


def against_plain(argv: Sequence[str]) -> int:
    """Run it.

    Args:
        argv: flags of `led-sglang bench`; `--samplers` and `--explore-rate` have no meaning here.

    Returns:
        The exit status, as of `led-sglang bench`.
    """
    arguments, serve_flags = read_flags(argv)
    plan = plan_of(arguments, serve_flags, baseline=_PLAIN, arms=(regular(),))
    flags = ["--model-path", arguments.model_path, "--load-format", arguments.load_format]
    flags += [*(("--device", arguments.device) if arguments.device else ()), *serve_flags]
    try:
        refused = _measure(plan, flags, arguments.out, arguments.resume, arguments.device)
    except (BenchError, ServerError) as error:
        print(f"led-sglang: {error}", file=sys.stderr)
        return 2
    print(arguments.out)
    return 2 if refused else 0


def _measure(
    plan: Plan, flags: Sequence[str], out: Path, resume: bool, device: str | None
) -> list[str]:
    journal = Journal(out, plan, resume)
    header = machine(device)
    on_cpu = {"SGLANG_PLATFORM": "led_cpu"} if device == "cpu" else {}
    refused: list[str] = []
    with ExitStack() as stack:
        servers = {}
        for name, command in (("plain", _PLAIN_COMMAND), ("led", LED_COMMAND)):
            started_before = set(psutil.Process().children(recursive=True))
            env = on_cpu | ({"SGLANG_PLUGINS": "none"} if name == "plain" else {})
            url = stack.enter_context(
                running_server(flags, out / f"{name}.log", command=command, env=env)
            )
            processes = set(psutil.Process().children(recursive=True)) - started_before
            servers[name] = ServerView(url, list(processes))
        load = stack.enter_context(LoadGenerator(out))

        def report() -> None:
            write_report(out, plan, header, journal.rows(plan), refused)

        try:
            refused += run_plan(plan, servers, load, journal, report)
        finally:
            report()
    return refused
