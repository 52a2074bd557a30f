"""Command line: `led-sglang serve`, `eval`, `bench`, `trace`, `analyze` and `doctor`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from led_sglang._version import __version__
from led_sglang.common.flags import Parser
from led_sglang.common.terminal import finish

# By name: the function that runs it on its arguments, and what the help says.
_COMMANDS = {
    "serve": ("led_sglang.serving.command.serve", "serve a model with LED"),
    "eval": ("led_sglang.evaluation.command.evaluate", "measure samplers on benchmarks"),
    "bench": ("led_sglang.bench.command.bench", "what each sampler costs on this machine"),
    "trace": ("led_sglang.trace.command.trace", "one answer, token by token, as HTML"),
    "analyze": ("led_sglang.analysis.command.analyze", "entropy and coverage of every layer"),
    "doctor": (
        "led_sglang.doctor.command.doctor",
        "check that the installed SGLang is one LED can run on",
    ),
}


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
    for name, (_, text) in _COMMANDS.items():
        commands.add_parser(name, add_help=False, help=text)
    if arguments and arguments[0] in _COMMANDS:  # it has a parser of its own
        module, _, function = _COMMANDS[arguments[0]][0].rpartition(".")
        status: int = getattr(importlib.import_module(module), function)(arguments[1:])
        return status
    parser.parse_args(arguments)  # --help, --version, or an error
    parser.error("the command comes first")


if __name__ == "__main__":
    sys.exit(main())
