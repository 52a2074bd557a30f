"""Registration of hooks: a decorator that only takes symbols of the table, and their state."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from led_sglang.patches.touched import LAUNCH, SERVING, Symbol

_BY_PATH = {symbol.path: symbol for symbol in LAUNCH + SERVING}
_HOOKS: list[tuple[Symbol, str, Callable[..., Any]]] = []


def hook(path: str, kind: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare a hook on `sglang.srt.<path>`; `kind` is BEFORE, AFTER or AROUND.

    Declared hooks do nothing until `apply()`.
    """
    symbol = _BY_PATH[f"sglang.srt.{path}"]

    def declare(function: Callable[..., Any]) -> Callable[..., Any]:
        _HOOKS.append((symbol, kind, function))
        return function

    return declare


def apply(symbols: tuple[Symbol, ...]) -> None:
    """Register and apply the declared hooks on `symbols`; applied ones stay as they are."""
    from sglang.srt.plugins import hook_registry
    from sglang.srt.plugins.hook_registry import HookRegistry, HookSource, HookType

    source = HookSource(plugin_name="led", dist_name="led-sglang")
    for symbol, kind, function in _HOOKS:
        if symbol in symbols and symbol.path not in HookRegistry._patched:
            HookRegistry.register(symbol.path, function, HookType[kind], source=source)
    # A line for every hook would be no news: the banner counts them, `unapplied` names failures.
    log = logging.getLogger(hook_registry.__name__)
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        HookRegistry.apply_hooks()
    finally:
        log.setLevel(level)


def all_applied(symbols: tuple[Symbol, ...]) -> bool:
    """Whether hooks on `symbols` are declared and every one of them is applied."""
    paths = {symbol.path for symbol in symbols} & set(declared())
    return bool(paths) and not paths & set(_not_applied())


def declared() -> list[str]:
    """Paths of all declared hooks."""
    return [symbol.path for symbol, _, _ in _HOOKS]


def unapplied() -> list[str]:
    """One line per declared hook that SGLang did not apply (it logs and swallows failures)."""
    return [f"{path} was not hooked" for path in _not_applied()]


def _not_applied() -> list[str]:
    from sglang.srt.plugins.hook_registry import HookRegistry

    return [path for path in declared() if path not in HookRegistry._patched]
