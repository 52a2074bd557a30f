"""Parsers of single request values: the value, or an error that names the key and the choices."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from led_sglang.settings import ServerSettings

# Takes the key as messages name it, the value a request gave and the server's settings.
Parser = Callable[[str, Any, ServerSettings], Any]

# Of numbers without a bound of their own: finite in float32 and far beyond any meaning.
LARGEST = 1.7e308


class ParameterError(ValueError):
    """A request asks for something that is not offered; SGLang turns it into HTTP 400."""


def integer(low: int, high: int, note: str = "") -> Parser:
    """An integer in low..high; `note` follows the range in the message."""
    allowed = f"an integer in {low}..{high}{note}"

    def parse(key: str, value: Any, _: ServerSettings) -> int:
        # bool is an int in Python; `"depth": true` is a mistake all the same.
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ParameterError(f"{key} must be {allowed}, got {show(value)}")
        return value

    return parse


def number(low: float, high: float, allowed: str, *, low_open: bool = False) -> Parser:
    """A finite number in [low, high], or in (low, high] with `low_open`."""

    def parse(key: str, value: Any, _: ServerSettings) -> float:
        good = (
            isinstance(value, (int, float))
            and not isinstance(value, bool)
            # Before float(): a huge integer would overflow it.
            and (low < value if low_open else low <= value)
            and value <= high
            and math.isfinite(value)
        )
        if not good:
            raise ParameterError(f"{key} must be {allowed}, got {show(value)}")
        return float(value)

    return parse


def boolean(key: str, value: Any, _: ServerSettings) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise ParameterError(f"{key} must be true or false, got {show(value)}")
    return value


def choice(choices: tuple[str, ...]) -> Parser:
    """One of `choices`."""

    def parse(key: str, value: Any, _: ServerSettings) -> str:
        if not isinstance(value, str) or value not in choices:
            raise ParameterError(f"{key} must be one of {', '.join(choices)}, got {show(value)}")
        return value

    return parse


def show(value: Any) -> str:
    """A value as an error message quotes it: short."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
