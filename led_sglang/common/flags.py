"""Flags of the commands: help with defaults, errors of one sentence, and kinds of numbers."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from led_sglang.common.terminal import FAILED


class Parser(argparse.ArgumentParser):
    """A parser whose help shows the defaults and whose errors are one sentence (status 2)."""

    def __init__(self, **options: Any) -> None:
        """`options`: of `argparse.ArgumentParser`."""
        super().__init__(**{"formatter_class": _HelpWithDefaults} | options)

    def error(self, message: str) -> NoReturn:
        self.exit(FAILED, f"{self.prog}: {message}; `{self.prog} --help` lists the flags\n")


class _HelpWithDefaults(argparse.HelpFormatter):
    """Adds the default to the help of each flag that has one and does not show it itself."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" in text:  # laid out already, such as a list of examples
            return "".join(indent + line for line in text.splitlines(keepends=True))
        return super()._fill_text(text, width, indent)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help or ""
        has_default = action.default not in (None, False, argparse.SUPPRESS, [])
        if not has_default or "%(default)" in text:
            return text
        return f"{text} (default: %(default)s)".lstrip()


def split_flags(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """A command's own flags, and those behind the first `--`, which are for its server."""
    own = list(argv)
    cut = own.index("--") if "--" in own else len(own)
    return own[:cut], own[cut + 1 :]


def whole_number(text: str) -> int:
    """A whole number from 1 up; the type of a flag."""
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)


def whole_numbers(text: str) -> tuple[int, ...]:
    """Whole numbers from 1 up, separated by commas, each once; the type of a flag."""
    return tuple(dict.fromkeys(whole_number(part.strip()) for part in text.split(",")))


def above_zero(text: str) -> float:
    """A number above 0; the type of a flag."""
    value = _number(text)
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def from_zero(text: str) -> float:
    """A number from 0 up; the type of a flag."""
    value = _number(text)
    if not 0.0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 up")
    return value


def share(text: str) -> float:
    """A number from 0 to 1; the type of a flag."""
    value = _number(text)
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
