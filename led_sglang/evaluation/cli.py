"""Command line of `led-sglang eval`."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from led_sglang.evaluation import EvaluationError

_EXAMPLES = """\
examples:
  led-sglang eval --base-url http://localhost:30000 --config quick --run-dir runs/quick
  led-sglang eval --launch "--model-path Qwen/Qwen3-8B" --config paper --run-dir runs/paper
  led-sglang eval ... --run-dir runs/paper --resume      continue after a crash or Ctrl-C
  led-sglang eval --compare runs/a runs/b                paired difference of two runs
"""
# What the extra brings, by the name it is imported under.
_MODULES = ("aiohttp", "math_verify", "matplotlib", "tqdm")


def evaluate(argv: Sequence[str]) -> int:
    """Run the command.

    Returns:
        The exit status: 0; 1 when generation failed or something is wrong with what was given;
        130 after Ctrl-C and 143 after SIGTERM, with a report on what is there.
    """
    arguments = _parser().parse_args(argv)
    try:
        _check_extra()
        return _evaluate(arguments)
    except EvaluationError as error:
        print(f"led-sglang eval: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1


def _check_extra() -> None:
    missing = [name for name in _MODULES if importlib.util.find_spec(name) is None]
    if missing:
        raise EvaluationError(
            f"needs {', '.join(missing)}: install them with `pip install 'led-sglang[eval]'`"
        )


def _evaluate(arguments: argparse.Namespace) -> int:
    if arguments.compare:
        from led_sglang.evaluation.compare import compare
        from led_sglang.evaluation.tables import markdown

        first, second = arguments.compare
        print(markdown(compare(first, second)))
        return 0
    if arguments.run_dir is None:
        raise EvaluationError("--run-dir is missing")
    if arguments.report:
        from led_sglang.evaluation.report import write_report
        from led_sglang.evaluation.store import RunStore

        write_report(RunStore(arguments.run_dir))
        print(arguments.run_dir / "report.html")
        return 0
    from led_sglang.evaluation.grid import make_grid, read_grid
    from led_sglang.evaluation.session import Options, run

    if (arguments.base_url is None) == (arguments.launch is None):
        raise EvaluationError("give one of --base-url and --launch")
    keys = read_grid(arguments.config) if arguments.config else {}
    keys = {**keys, **_given(arguments)}
    grid = make_grid(keys, arguments.config or "the command line")
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
    )
    return run(grid, options, base_url=arguments.base_url, launch=arguments.launch)


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    """Keys of the grid that were given as flags."""
    keys = ["tasks", "samplers", "temperatures", "n", "max_tokens", "top_p", "top_k", "seed"]
    keys += ["limit", "scope", "grade_timeout"]
    values = {key: getattr(arguments, key) for key in keys}
    return {key: value for key, value in values.items() if value is not None}


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


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 up, not {text!r}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="led-sglang eval",
        description="Measure samplers on benchmarks: generate, grade, and report with error bars.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    server = parser.add_argument_group("server")
    server.add_argument("--base-url", metavar="URL", help="of a running SGLang server")
    server.add_argument("--launch", metavar="ARGS", help="start `led-sglang serve ARGS` instead")
    server.add_argument("--model", help="model name at the endpoint (default: its first)")
    server.add_argument("--concurrency", type=_positive, default=32, metavar="C")
    server.add_argument("--attempts", type=_positive, default=8, help="tries of a request")
    server.add_argument("--request-timeout", type=float, default=7200.0, metavar="SECONDS")
    grid = parser.add_argument_group("what is measured (flags override the grid file)")
    grid.add_argument("--config", metavar="GRID", help="paper, quick, ablations, or a YAML file")
    grid.add_argument("--tasks", type=_names, metavar="A,B", help="names or YAML files")
    grid.add_argument("--data", type=_data, action="append", metavar="TASK=FILE.jsonl")
    grid.add_argument("--samplers", type=_names, metavar="A,B", help="the first is the baseline")
    grid.add_argument("--temperatures", type=_numbers, metavar="T,T")
    grid.add_argument("--n", type=int, help="samples of each problem")
    grid.add_argument("--max-tokens", type=int)
    grid.add_argument("--top-p", type=float)
    grid.add_argument("--top-k", type=int)
    grid.add_argument("--seed", type=int, help="of sample 0; sample i has seed + i")
    grid.add_argument("--limit", type=int, metavar="N", help="first N problems of each task")
    grid.add_argument("--scope", choices=("answer", "completion"), help="text that is graded")
    grid.add_argument("--grade-timeout", type=float, metavar="SECONDS")
    output = parser.add_argument_group("output")
    output.add_argument("--run-dir", type=Path, metavar="DIR")
    output.add_argument("--resume", action="store_true", help="continue the run in --run-dir")
    output.add_argument("--report", action="store_true", help="only write the report again")
    output.add_argument("--compare", nargs=2, type=Path, metavar=("DIR_A", "DIR_B"))
    output.add_argument(
        "--execute-code",
        action="store_true",
        help="run generated programs here, confined, one at a time",
    )
    output.add_argument("--grade-workers", type=_positive, default=2, metavar="W")
    return parser
