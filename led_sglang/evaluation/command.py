"""Command line of `led-sglang eval`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from led_sglang.common.address import server_url
from led_sglang.common.extras import require
from led_sglang.common.flags import Parser, above_zero, whole_number
from led_sglang.common.provenance import command_line
from led_sglang.common.samplers import SHIPPED
from led_sglang.common.terminal import finish
from led_sglang.evaluation import EvaluationError
from led_sglang.evaluation.grid import SCOPES, Grid, make_grid, read_grid

_EXAMPLES = """\
examples:
  led-sglang eval --base-url http://localhost:30000 --config quick --run-dir runs/quick
  led-sglang eval --launch "--model-path Qwen/Qwen3-8B" --config paper --run-dir runs/paper
  led-sglang eval ... --run-dir runs/paper --resume      continue after a crash or Ctrl-C
  led-sglang eval --compare runs/a runs/b                paired difference of two runs
  led-sglang eval --run-dir runs/paper --export          its tables as CSV and LaTeX
"""
# What the extra brings, by the name it is imported under.
_MODULES = ("aiohttp", "math_verify", "matplotlib", "tqdm")


def evaluate(argv: Sequence[str]) -> int:
    """Run the command.

    Returns:
        The exit status: 0; 2 when generation failed or something is wrong with what was given; 130
        after Ctrl-C and 143 after SIGTERM, with a report on what is there.
    """
    return finish(lambda: _evaluate(argv, _parser().parse_args(argv)))


def _evaluate(argv: Sequence[str], arguments: argparse.Namespace) -> int:
    require("eval", *_MODULES)
    if arguments.compare:
        from led_sglang.evaluation.report.compare import compare
        from led_sglang.evaluation.report.tables import markdown

        first, second = arguments.compare
        print(markdown(compare(first, second)))
        return 0
    if arguments.run_dir is None:
        raise EvaluationError("--run-dir is missing: name the folder of the run")
    no_server = arguments.base_url is None and arguments.launch is None
    if arguments.report or (arguments.export and no_server):
        from led_sglang.evaluation.report.write import write_report
        from led_sglang.evaluation.store import RunStore

        write_report(RunStore(arguments.run_dir))
        print(arguments.run_dir / "report.html")
        return _export(arguments)
    from led_sglang.evaluation.session import Options, run

    if (arguments.base_url is None) == (arguments.launch is None):
        raise EvaluationError(
            "give one of --base-url (a running server) and --launch (flags of one to start)"
        )
    base_url = None if arguments.base_url is None else server_url(arguments.base_url)
    keys = read_grid(arguments.config) if arguments.config else {}
    flags = {field.name: getattr(arguments, field.name) for field in fields(Grid)}
    given = {key: value for key, value in flags.items() if value is not None}
    grid = make_grid({**keys, **given}, arguments.config or "the command line")
    own_grid = arguments.config is not None and arguments.config not in SHIPPED
    options = Options(
        run_dir=arguments.run_dir,
        resume=arguments.resume,
        concurrency=arguments.concurrency,
        attempts=arguments.attempts,
        timeout=arguments.request_timeout,
        model=arguments.model,
        data=dict(arguments.data or ()),
        execute_code=arguments.execute_code,
        grade_workers=arguments.grade_workers,
        adapt="max_tokens" not in given and not (own_grid and "max_tokens" in keys),
        command=command_line(["led-sglang", "eval", *argv]),
    )
    status = run(grid, options, base_url=base_url, launch=arguments.launch)
    return status or _export(arguments)


def _export(arguments: argparse.Namespace) -> int:
    """Write the tables where that was asked for; the status is 0."""
    if arguments.export:
        from led_sglang.evaluation.report.export import export

        metrics = json.loads((arguments.run_dir / "metrics.json").read_text())
        for path in export(metrics, arguments.run_dir / "tables"):
            print(path)
    return 0


def _names(text: str) -> list[str]:
    return [name for name in (part.strip() for part in text.split(",")) if name]


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be numbers, as in 0.1,0.6, not {text!r}") from None


def _data(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError("must be TASK=FILE.jsonl")
    return name, Path(path)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="led-sglang eval",
        description="Measure samplers on benchmarks: generate, grade, and report with error bars.",
        epilog=_EXAMPLES,
    )
    server = parser.add_argument_group("server")
    server.add_argument("--base-url", metavar="URL", help="of a running SGLang server")
    server.add_argument("--launch", metavar="ARGS", help="start `led-sglang serve ARGS` instead")
    server.add_argument("--model", help="model name at the endpoint (default: its first)")
    server.add_argument(
        "--concurrency", type=whole_number, default=32, metavar="C", help="requests at a time"
    )
    server.add_argument("--attempts", type=whole_number, default=8, help="tries of a request")
    server.add_argument(
        "--request-timeout",
        type=above_zero,
        default=7200.0,
        metavar="SECONDS",
        help="of one try, generation included",
    )
    grid = parser.add_argument_group(
        "what is measured", "Flags override the grid file; the defaults are for keys it lacks."
    )
    shipped = ", ".join(SHIPPED)
    grid.add_argument("--config", metavar="GRID", help=f"{shipped}, or a YAML file")
    grid.add_argument("--tasks", type=_names, metavar="A,B", help="names or YAML files")
    grid.add_argument(
        "--data", type=_data, action="append", metavar="TASK=FILE.jsonl", help="a task's items"
    )
    grid.add_argument("--samplers", type=_names, metavar="A,B", help="the first is the baseline")
    keys: list[tuple[str, str, dict[str, Any]]] = [
        ("temperatures", "of the samples", {"type": _numbers, "metavar": "T,T"}),
        ("n", "samples of each problem", {"type": int}),
        ("max_tokens", "of a completion, at most", {"type": int}),
        ("top_p", "of the samples", {"type": float}),
        ("top_k", "of the samples, -1 for none", {"type": int}),
        ("seed", "of the run", {"type": int}),
        ("limit", "first N problems of each task", {"type": int, "metavar": "N"}),
        ("scope", "text that is graded", {"choices": SCOPES}),
        ("grade_timeout", "for one answer", {"type": float, "metavar": "SECONDS"}),
    ]
    for key, text, kind in keys:
        flag = f"--{key.replace('_', '-')}"
        grid.add_argument(flag, help=f"{text} (default: {_default(key)})", **kind)
    grid.add_argument(
        "--seed-per-sample",
        action="store_const",
        const=True,
        help="sample i of every problem has the seed SEED + i, as in the authors' release",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--run-dir", type=Path, metavar="DIR", help="folder of the run")
    output.add_argument("--resume", action="store_true", help="continue the run in --run-dir")
    output.add_argument("--report", action="store_true", help="only write the report again")
    output.add_argument(
        "--export", action="store_true", help="write the tables as CSV and LaTeX, too"
    )
    output.add_argument(
        "--compare", nargs=2, type=Path, metavar=("DIR_A", "DIR_B"), help="two finished runs"
    )
    output.add_argument(
        "--execute-code",
        action="store_true",
        help="run generated programs here, confined, one at a time",
    )
    output.add_argument(
        "--grade-workers", type=whole_number, default=2, metavar="W", help="grading processes"
    )
    return parser


def _default(key: str) -> str:
    """Of a grid's key, as its flag takes it."""
    value = getattr(Grid, key)
    if value is None:
        return "all"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
