"""Command line: `led-sglang serve`, `eval`, `bench`, `trace`, `analyze` and `doctor`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from led_sglang._version import __version__
from led_sglang.common.flags import Parser
from led_sglang.common.terminal import finish
from led_sglang.cpu_platform import PLATFORM_NAME, thread_binding
from led_sglang.launch_options import ENVIRONMENT_VARIABLE
from led_sglang.settings import LaunchRefused

_SERVE_HELP = """\
usage: led-sglang serve [MODEL] [--sampler NAME] [--enable-samplers NAME,NAME]
                        [--led-depth D] [--led-candidates K] [--led-layers paper|release]
                        [--led-think-only true|false]
                        [--led-think-start TEXT --led-think-end TEXT] [--dola-layers LIST]
                        [any flag of `sglang serve`, --config FILE.yaml included]

Serve a model over SGLang's OpenAI-compatible API with Latent Exploration Decoding.
Without a model, a tiny bundled one is served. Without an accelerator, or with --device cpu,
the server runs on native PyTorch.

  --sampler NAME            method of requests that name none (default: led), one of led, dola,
                            soft-thinking, soft-thinking-gumbel, soft-thinking-dirichlet, regular
  --enable-samplers A,B     what else a request may choose; regular it always may. Costs: led and
                            dola keep the streams of the layers they read, dola about half of all;
                            the soft methods look up 32 embeddings per row and decode step
  --led-depth D             exploration depth d, and the deepest a request may ask for
                            (default: the model family's preset, 8)
  --led-candidates K        candidates k, 1..64 (default: the preset's, 8)
  --led-layers PRESET       latent layers: paper (default) or release
  --led-think-only BOOL     explore only while the model thinks (default: true)
  --led-think-start TEXT    delimiters of the think phase, where the preset's are not the
  --led-think-end TEXT      model's own
  --dola-layers LIST        layers DoLa may contrast with: low,high (default), all, or numbers
  --help-sglang             show SGLang's own flags too

Example:
  led-sglang serve Qwen/Qwen3-4B-Thinking-2507 --port 30000
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `led-sglang` command.

    Returns:
        The exit status: 0; 2 where something cannot be done, with one sentence; 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    return finish(lambda: _run(arguments))


def _run(arguments: list[str]) -> int:
    """The command of `arguments`; each is imported when it is used."""
    parser = Parser(
        prog="led-sglang",
        description="Latent Exploration Decoding (arXiv 2602.01698) for a stock SGLang server.",
    )
    parser.add_argument("--version", action="version", version=f"led-sglang {__version__}")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=Parser
    )
    commands.add_parser("serve", add_help=False, help="serve a model with LED")
    commands.add_parser("eval", add_help=False, help="measure samplers on benchmarks")
    commands.add_parser("bench", add_help=False, help="what each sampler costs on this machine")
    commands.add_parser("trace", add_help=False, help="one answer, token by token, as HTML")
    commands.add_parser("analyze", add_help=False, help="entropy and coverage of every layer")
    commands.add_parser(
        "doctor",
        help="check that the installed SGLang is one LED can run on",
        description="List every symbol of SGLang that LED touches, and whether the installed one "
        "fits; status 2 where one does not.",
    )
    if arguments[:1] == ["serve"]:  # its flags are SGLang's: no second parser for them here
        return serve(arguments[1:])
    if arguments[:1] == ["eval"]:
        from led_sglang.evaluation.cli import evaluate

        return evaluate(arguments[1:])
    if arguments[:1] == ["bench"]:
        from led_sglang.bench.command import bench

        return bench(arguments[1:])
    if arguments[:1] == ["trace"]:
        from led_sglang.trace.command import trace

        return trace(arguments[1:])
    if arguments[:1] == ["analyze"]:
        from led_sglang.analysis.command import analyze

        return analyze(arguments[1:])
    parser.parse_args(arguments)
    return doctor()


def serve(argv: list[str]) -> int:
    """Launch the server; blocks until it ends."""
    if "-h" in argv or "--help" in argv:
        print(_SERVE_HELP)
        return 0
    if "--help-sglang" in argv:
        argv = ["--help"]
    try:
        _launch(argv)
    except LaunchRefused as error:
        print(f"led-sglang: {error}", file=sys.stderr)
        return 2
    except SystemExit as error:
        if not isinstance(error.code, str):
            raise
        print(error.code, file=sys.stderr)
        return 2
    return 0


def doctor() -> int:
    """Print every SGLang symbol LED touches and whether it is as expected."""
    from led_sglang.banner import versions
    from led_sglang.patches.touched import TOUCHED, problem

    print(versions())
    failures = 0
    for symbol in TOUCHED:
        what = problem(symbol)
        failures += what is not None
        print(f"{'ok  ' if what is None else 'FAIL'} {symbol.path.removeprefix('sglang.srt.')}")
        print(f"       {symbol.why}" + (f": {what}" if what else ""))
    print(f"{len(TOUCHED) - failures}/{len(TOUCHED)} symbols as expected")
    return 0 if failures == 0 else 2


def _launch(argv: list[str]) -> None:
    if argv and not argv[0].startswith("-"):  # `led-sglang serve MODEL`, as in `sglang serve MODEL`
        argv = ["--model-path", *argv]
    argv = _with_model(argv)
    argv = _with_platform(argv)
    # The default of this command; a flag or a --config file still decides.
    os.environ.setdefault(ENVIRONMENT_VARIABLE, '{"sampler": "led"}')

    from led_sglang.patches.launch import launch

    launch(argv)


def _value(argv: list[str], *flags: str) -> str | None:
    """The value of a flag on the command line or in the --config file, or None."""
    for position, argument in enumerate(argv):
        name, equals, value = argument.partition("=")
        if name in flags:
            return value if equals else next(iter(argv[position + 1 : position + 2]), "")
    config = None if "--config" in flags else _value(argv, "--config")
    if config and Path(config).is_file():
        import yaml

        keys = {flag.lstrip("-").replace("-", "_") for flag in flags}
        content = yaml.safe_load(Path(config).read_text()) or {}
        for key, value in content.items() if isinstance(content, dict) else ():
            if str(key).replace("-", "_") in keys:
                return str(value)
    return None


def _with_model(argv: list[str]) -> list[str]:
    if _value(argv, "--model-path", "--model") is not None or "--help" in argv:
        return argv
    from led_sglang.bundled import bundled_model

    path = bundled_model()
    print(
        "led-sglang: no --model-path given: serving the bundled model, a tiny reasoner that finds "
        f"walks through seven rooms ({path})",
        file=sys.stderr,
        flush=True,
    )
    return [*argv, "--model-path", str(path)]


def _with_platform(argv: list[str]) -> list[str]:
    """Choose the CPU platform where no accelerator is found or --device cpu says so."""
    device = _value(argv, "--device")
    chosen = os.environ.get("SGLANG_PLATFORM")
    if chosen not in (None, PLATFORM_NAME) or (device != "cpu" and _has_accelerator()):
        return argv
    if device not in (None, "cpu"):
        raise LaunchRefused(f"--device {device} was asked for, but no accelerator is found here")
    os.environ["SGLANG_PLATFORM"] = PLATFORM_NAME
    ranks = int(_value(argv, "--tp", "--tp-size", "--tensor-parallel-size") or 1)
    if ranks > 1:
        os.environ.setdefault("SGLANG_CPU_OMP_THREADS_BIND", thread_binding(ranks))
    return argv if device else [*argv, "--device", "cpu"]


def _has_accelerator() -> bool:
    import torch

    return torch.accelerator.is_available()


if __name__ == "__main__":
    sys.exit(main())
