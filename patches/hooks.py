"""Registration of hooks: a decorator that only takes symbols of the table, and their state."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from led_sglang.patches.propagation import Propagation
from led_sglang.patches.touched import LAUNCH, SERVING, Symbol

_BY_PATH = {symbol.path: symbol for symbol in LAUNCH + SERVING}
_HOOKS: list[tuple[Symbol, str, Callable[..., Any]]] = []
_taken: list[tuple[Symbol, str, Callable[..., Any]]] = []  # those that `apply` has handed over


def hook(path: str, kind: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare a hook on `sglang.srt.<path>`; `kind` is BEFORE, AFTER, AROUND or REPLACE.

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
    late: dict[str, list[tuple[HookType, Any, HookSource]]] = {}
    for declared_hook in _HOOKS:
        symbol, kind, function = declared_hook
        if symbol not in symbols or declared_hook in _taken:
            continue
        _taken.append(declared_hook)
        if symbol.path in HookRegistry._patched:
            # Another plugin's hook is there, and SGLang takes no second look at a symbol.
            late.setdefault(symbol.path, []).append((HookType[kind], function, source))
        else:
            HookRegistry.register(symbol.path, function, HookType[kind], source=source)
    # A line for every hook would be no news: the banner counts them, `unapplied` names failures.
    log = logging.getLogger(hook_registry.__name__)
    level, theirs = log.level, hook_registry._propagate_patch
    log.setLevel(logging.WARNING)
    paths = [*HookRegistry._hooks, *late]
    hook_registry._propagate_patch = Propagation(paths, theirs)
    try:
        HookRegistry.apply_hooks()
        for path, hooks in late.items():
            HookRegistry._apply_target(path, hooks)
    finally:
        hook_registry._propagate_patch = theirs
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

    return [
        declared_hook[0].path
        for declared_hook in _HOOKS
        if declared_hook not in _taken or declared_hook[0].path not in HookRegistry._patched
    ]
