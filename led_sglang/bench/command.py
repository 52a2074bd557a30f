"""`led-sglang bench`: one server, samplers side by side."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from led_sglang.bench import BenchError
from led_sglang.bench.load import LoadGenerator
from led_sglang.bench.machine import machine
from led_sglang.bench.measure import Journal, run_plan
from led_sglang.bench.plan import Arm, Plan, arms_of, explore_rates, regular
from led_sglang.bench.profile import profile_arms
from led_sglang.bench.report import in_words, scattered, write_report
from led_sglang.bench.watch import ServerView
from led_sglang.common.address import ServerError
from led_sglang.common.extras import need
from led_sglang.common.flags import Parser, from_zero, split_flags, whole_number, whole_numbers
from led_sglang.common.paths import writable_folder
from led_sglang.common.server_process import running_server
from led_sglang.common.terminal import FAILED
from led_sglang.common.user_files import numbered_lines

SERVER_LOG = "server.log"


def bench(argv: Sequence[str]) -> int:
    """Run the command on the arguments after `bench`; those behind `--` go to its server.

    Returns:
        The exit status: 0, or 2 where something could not be measured.

    Raises:
        CommandError: nothing can be measured, or nothing more.
    """
    arguments, serve_flags = read_flags(argv)
    refused = _run(arguments, serve_flags)
    print(arguments.out)
    return FAILED if refused else 0


def read_flags(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The command's own flags, and those of the server after `--`."""
    own, serve_flags = split_flags(argv)
    return _parser().parse_args(own), serve_flags


def _run(arguments: argparse.Namespace, serve_flags: Sequence[str]) -> list[str]:
    # What can go wrong is found before minutes of work, not after.
    need("matplotlib")
    # Random ids open no thought: LED then has to explore on every token to be measured.
    think_only = arguments.prompts is not None
    arms = arms_of(_samplers(arguments), explore_rates(arguments.explore_rate), think_only)
    plan = plan_of(arguments, serve_flags, baseline=regular(), arms=arms)
    writable_folder(arguments.out, "--out")
    journal = Journal(arguments.out, plan, arguments.resume)
    flags = ["--model-path", arguments.model_path, "--load-format", arguments.load_format]
    flags += ["--enable-samplers", ",".join(_samplers(arguments)), *serve_flags]
    if arguments.device:
        flags += ["--device", arguments.device]
    print("measuring what the machine can do ...", file=sys.stderr, flush=True)
    header = machine(arguments.device)
    started_before = set(psutil.Process().children(recursive=True))
    refused: list[str] = []
    profile = ""

    def report() -> None:
        write_report(arguments.out, plan, header, journal.rows(plan), refused, profile)

    with (
        running_server(flags, arguments.out / SERVER_LOG) as url,
        LoadGenerator(arguments.out) as load,
    ):
        processes = set(psutil.Process().children(recursive=True)) - started_before
        server = ServerView(url, list(processes))
        try:
            for arm in (plan.baseline, *plan.arms):
                server.check_answerer(arm)
            refused += run_plan(plan, {"led": server}, load, journal, report)
            fitting = [row.batch_size for row in journal.rows(plan)]
            if arguments.profile and fitting:
                profile = profile_arms(plan, max(fitting), server, load, arguments.out)
        except (BenchError, ServerError) as error:
            log = arguments.out / SERVER_LOG
            refused.append(f"{error}; {_kept(journal, arguments)}; the server's log: {log}")
            raise type(error)(refused[-1]) from None
        except KeyboardInterrupt:
            print(f"\n{_kept(journal, arguments)}; --resume goes on", file=sys.stderr)
            raise
        finally:
            report()
            rows = journal.rows(plan)
            for line in in_words(rows, plan):
                print(line)
            for note in scattered(rows):
                print(f"led-sglang bench: {note}", file=sys.stderr)
    return refused


def _kept(journal: Journal, arguments: argparse.Namespace) -> str:
    return f"{len(journal.pairs)} finished pairs are kept in {arguments.out}"


def _samplers(arguments: argparse.Namespace) -> list[str]:
    names = [name.strip() for name in arguments.samplers.split(",")]
    return list(dict.fromkeys(["regular", *names]))


def plan_of(
    arguments: argparse.Namespace,
    serve_flags: Sequence[str],
    *,
    baseline: Arm,
    arms: tuple[Arm, ...],
) -> Plan:
    """The plan that the flags ask for.

    Raises:
        BenchError: a flag's value makes no sense.
    """
    prompts = arguments.prompts
    if prompts is not None:
        if not prompts.is_file():
            raise BenchError(f"--prompts {prompts} is no file")
        _check_prompts(prompts, max(arguments.batch_sizes))
    if arguments.output_len < 8:
        raise BenchError(
            "--output-len needs at least 8 tokens to tell a step's time from its noise"
        )
    facts: dict[str, Any] = {"model": arguments.model_path, "load_format": arguments.load_format}
    return Plan(
        baseline=baseline,
        arms=arms,
        batch_sizes=arguments.batch_sizes,
        context=arguments.context,
        output_len=arguments.output_len,
        repeats=arguments.repeats,
        temperature=arguments.temperature,
        prompts=None if prompts is None else str(prompts),
        facts=facts | {"server_flags": list(serve_flags)},
    )


def _check_prompts(path: Path, largest: int) -> None:
    """`bench_serving` skips a line that it cannot read, and has too few requests then.

    Args:
        largest: batch size.
    """
    lines = numbered_lines(path, BenchError)
    for number, line in lines:
        try:
            turns = json.loads(line)["conversations"]
            texts = [turn.get("content", turn.get("value")) for turn in turns[:2]]
        except (ValueError, LookupError, TypeError, AttributeError):
            texts = []
        if len(texts) < 2 or not all(isinstance(text, str) for text in texts):
            raise BenchError(
                f"--prompts {path}, line {number} is not "
                "{conversations: [{content: prompt}, {content: answer}]} in JSON"
            )
    if len(lines) < largest:
        raise BenchError(
            f"--prompts {path} holds {len(lines)} prompts and a batch takes {largest}: give "
            "smaller --batch-sizes, or more prompts"
        )


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="led-sglang bench",
        description="Measure what each sampler costs on this machine, in pairs with SGLang's own "
        "sampler on the same server. Flags of `led-sglang serve` follow after --.",
    )
    parser.add_argument("--model-path", required=True, help="folder or name of the model")
    parser.add_argument(
        "--load-format", default="auto", help="dummy: random weights of the model's shape"
    )
    parser.add_argument("--device", help="cpu or cuda; default: an accelerator where there is one")
    parser.add_argument("--samplers", default="regular,led", help="what is compared with regular")
    parser.add_argument(
        "--batch-sizes",
        type=whole_numbers,
        default="1,8,16,32,64,128,256",
        metavar="A,B",
        help="requests that decode together",
    )
    parser.add_argument(
        "--context", type=whole_number, default=2048, help="prompt length in tokens"
    )
    parser.add_argument("--output-len", type=whole_number, default=256, help="tokens per request")
    parser.add_argument(
        "--explore-rate",
        default="confidence",
        metavar="RATES",
        help="confidence (LED's own gate), or shares of tokens to explore at random, such as "
        "0.05,0.1,0.2: random weights are never sure, so their own gate explores nearly always",
    )
    parser.add_argument(
        "--repeats", type=whole_number, default=5, help="pairs per sampler and batch size"
    )
    parser.add_argument("--temperature", type=from_zero, default=0.6, help="of the sampling")
    parser.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="JSON lines {conversations: [{content: prompt}, {content: answer}]} for the model's "
        "chat template instead of random ids; LED then explores only while the model thinks",
    )
    parser.add_argument(
        "--profile", action="store_true", help="also trace the largest batch size that fits"
    )
    parser.add_argument("--resume", action="store_true", help="go on where --out stopped")
    parser.add_argument("--out", type=Path, default=Path("bench"), help="folder")
    return parser
