"""One start of a run: server, generation, verdicts, report."""

from __future__ import annotations

import asyncio
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from led_sglang.common.paths import writable_folder
from led_sglang.common.provenance import commit, processor
from led_sglang.common.server_process import running_server
from led_sglang.common.terminal import CommandError
from led_sglang.common.versions import versions
from led_sglang.evaluation import EvaluationError, code_verdicts
from led_sglang.evaluation.context import fitting
from led_sglang.evaluation.endpoint import Endpoint, ServedModel
from led_sglang.evaluation.grading.code_execution import SECONDS_PER_TEST
from led_sglang.evaluation.grading.pool import GradingPool
from led_sglang.evaluation.grading.version import grader_version
from led_sglang.evaluation.grid import Grid
from led_sglang.evaluation.progress import Progress
from led_sglang.evaluation.report.tables import answers, markdown
from led_sglang.evaluation.report.write import write_report
from led_sglang.evaluation.runner import SamplePlan, generate
from led_sglang.evaluation.server import fingerprint, is_sglang
from led_sglang.evaluation.store import RunStore
from led_sglang.evaluation.tasks import Task, load_task
from led_sglang.evaluation.tokenizer import ServerTokenizer


@dataclass(frozen=True)
class Options:
    """What may change from one start of a run to the next.

    Attributes:
        timeout: seconds of one try of a request.
        command: that was typed, for the report.
        adapt: lower `max_tokens` to the server's context, as nobody has asked for it.
        data: JSONL files that replace the items of tasks, by task.
    """

    run_dir: Path
    resume: bool
    concurrency: int
    attempts: int
    timeout: float
    model: str | None
    data: Mapping[str, Path]
    execute_code: bool
    grade_workers: int
    adapt: bool
    command: str


class _Stopped(Exception):
    """A signal ended generation; `status` is the exit status it asks for."""

    def __init__(self, signum: int) -> None:
        super().__init__()
        self.status = 128 + signum


def run(grid: Grid, options: Options, *, base_url: str | None, launch: str | None) -> int:
    """Start or continue a run; writes the report however generation ends, of what is finished.

    Returns:
        0, or 128 + the number of the signal that stopped it.

    Raises:
        CommandError: nothing was begun, or generation failed; finished samples are kept.
    """
    for name in options.data:
        if name not in grid.tasks:
            raise EvaluationError(f"--data {name}=...: there is no such task in this run")
    tasks = [load_task(name, data=options.data.get(name), limit=grid.limit) for name in grid.tasks]
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        raise EvaluationError(f"two tasks have the same name: {', '.join(names)}")
    writable_folder(options.run_dir, "--run-dir")
    store = RunStore(options.run_dir)
    store.check_start(resume=options.resume)
    with ExitStack() as stack:
        stack.callback(store.close)
        if launch is not None:
            print("led-sglang eval: starting the server", file=sys.stderr)
            flags = _launch_flags(launch, grid)
            base_url = stack.enter_context(running_server(flags, options.run_dir / "server.log"))
        assert base_url is not None
        status = 0
        try:
            asyncio.run(_generate(grid, tasks, options, store, base_url))
        except _Stopped as stopped:
            status = stopped.status
        except CommandError:
            _report_what_is_there(store)
            raise
    if status and not store.holds_samples():
        print("led-sglang eval: stopped before a sample was finished", file=sys.stderr)
        return status
    _verdicts(store, tasks, execute=options.execute_code and status == 0)
    metrics = write_report(store)
    for table in answers(metrics):
        print(f"{markdown(table)}\n")
    for warning in metrics["warnings"]:
        print(f"led-sglang eval: {warning}", file=sys.stderr)
    print(options.run_dir / "report.html")
    if status:
        print("led-sglang eval: stopped; continue with --resume", file=sys.stderr)
    return status


def _launch_flags(arguments: str, grid: Grid) -> list[str]:
    """Flags of `--launch`, which offer the grid's samplers unless they say what is offered."""
    try:
        flags = shlex.split(arguments)
    except ValueError as error:
        raise EvaluationError(
            f"--launch {arguments!r} cannot be split into flags: {error}"
        ) from None
    if not any(flag.partition("=")[0] == "--enable-samplers" for flag in flags):
        names = dict.fromkeys(sampler.name for sampler in grid.samplers)
        flags += ["--enable-samplers", ",".join(names)]
    return flags


async def _generate(
    grid: Grid, tasks: Sequence[Task], options: Options, store: RunStore, url: str
) -> None:
    """Generate what is missing; SIGINT and SIGTERM end it with `_Stopped`."""
    received: list[int] = []
    task = asyncio.current_task()
    assert task is not None

    def stop(signum: int) -> None:
        received.append(signum)
        task.cancel()

    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, stop, signum)
    try:
        async with Endpoint(url, attempts=options.attempts, timeout=options.timeout) as endpoint:
            await _generate_at(endpoint, grid, tasks, options, store)
    except asyncio.CancelledError:
        if not received:
            raise
        task.uncancel()
        raise _Stopped(received[0]) from None
    finally:
        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(signum)


async def _generate_at(
    endpoint: Endpoint, grid: Grid, tasks: Sequence[Task], options: Options, store: RunStore
) -> None:
    server = await endpoint.server_info()
    model = await endpoint.model(options.model)
    # Behind a gateway that shows no settings, the names of models tell of LED.
    plugin = server["led"] is not None or bool(model.by_sampler)
    _check_samplers(grid, server["led"], model, endpoint.url)
    tokenizer = ServerTokenizer(endpoint, model.name)
    delimiters = await tokenizer.delimiters(server)
    grid = await fitting(tokenizer, model.context, grid, tasks, adapt=options.adapt)
    sglang = plugin or is_sglang(server)
    plan = SamplePlan(
        *(grid, tasks, model, delimiters),
        plugin=plugin,
        sglang=sglang,
        special_tokens=sglang and await tokenizer.hides(delimiters),
    )
    store.open(_settings(plan, server), resume=options.resume)
    # The run was started (again), with what may change between starts.
    store.journal("sessions.jsonl").append(
        {
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "concurrency": options.concurrency,
            "command": options.command,
            "versions": versions(),
            "commit": commit(),
            "grader": grader_version(),
            "client": processor(),
            "server": server["machine"],
        }
    )
    done, correct, graded = set(), 0, 0
    for stored in store.samples():
        done.add(stored.key)
        verdict = stored.record["symbolic_correct"]
        graded += verdict is not None
        correct += bool(verdict)
    with Progress(plan.size(), len(done), correct, graded) as progress:
        clock = asyncio.create_task(progress.keep_time())
        try:
            async with GradingPool(options.grade_workers, grid.grade_timeout) as pool:
                await generate(
                    *(plan, done, store, endpoint, tokenizer, pool),
                    concurrency=options.concurrency,
                    on_sample=progress.add,
                )
        finally:
            clock.cancel()


def _check_samplers(
    grid: Grid, led: Mapping[str, Any] | None, model: ServedModel, url: str
) -> None:
    """A server would ignore what it does not know, and the run would measure nothing."""
    enabled = led["enabled"] if led else [*model.by_sampler] or ["regular"]
    for sampler in grid.samplers:
        if sampler.name not in enabled:
            raise EvaluationError(
                f"{url} does not offer the sampler {sampler.name!r}; it offers "
                f"{', '.join(enabled)}"
                + ("" if led or model.by_sampler else " (it was not started by `led-sglang serve`)")
            )


def _settings(plan: SamplePlan, server: Mapping[str, Any]) -> dict[str, Any]:
    """The fingerprint: whatever changes the numbers."""
    return {
        "model": plan.model.name,
        "server": fingerprint(server),
        "delimiters": asdict(plan.delimiters),
        "grid": asdict(plan.grid),
        "tasks": {task.name: task.fingerprint() for task in plan.tasks},
        "math_verify": version("math-verify"),
    }


def _verdicts(store: RunStore, tasks: Sequence[Task], *, execute: bool) -> None:
    code = [task for task in tasks if task.kind == "code"]
    if execute and code:
        print("led-sglang eval: executing programs, one at a time", file=sys.stderr)
        code_verdicts.execute(store, code, seconds=SECONDS_PER_TEST)
    for task in code:
        for path in code_verdicts.export(store, task):
            print(path)


def _report_what_is_there(store: RunStore) -> None:
    """After a failure; its own failure (a full disk) must not hide the first one."""
    try:
        if store.is_open and store.holds_samples():
            write_report(store)
    except (CommandError, OSError):
        print("led-sglang eval: no report could be written either", file=sys.stderr)
