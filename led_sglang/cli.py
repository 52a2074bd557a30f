"""Command line: `led-sglang serve`, `eval`, `bench`, `trace`, `analyze` and `doctor`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from led_sglang._version import __version__
from led_sglang.common.flags import Parser
from led_sglang.common.terminal import finish


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
        from led_sglang.serving.command import serve

        return serve(arguments[1:])
    if arguments[:1] == ["eval"]:
        from led_sglang.evaluation.command import evaluate

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


if __name__ == "__main__":
    sys.exit(main())
