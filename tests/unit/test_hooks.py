"""Hooks of this package and of other plugins on one symbol: all of them work."""

from __future__ import annotations

import sys
from collections import defaultdict
from types import ModuleType
from typing import Any

import pytest
from sglang.srt.plugins.hook_registry import HookRegistry, HookSource, HookType

from led_sglang.patches import hooks
from led_sglang.patches.touched import Symbol

PATH = "engine_of_this_test.sample"
SYMBOL = Symbol(PATH, None, "")


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module with one function, known to nobody yet; what SGLang has applied is put aside."""
    module = ModuleType("engine_of_this_test")
    module.sample = lambda: ["engine"]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(HookRegistry, "_hooks", defaultdict(list))
    monkeypatch.setattr(HookRegistry, "_patched", set())
    monkeypatch.setattr(hooks, "_taken", [])

    def after(result: list[str]) -> list[str]:
        return [*result, "led"]

    monkeypatch.setattr(hooks, "_HOOKS", [(SYMBOL, "AFTER", after)])
    return module


def register_another() -> None:
    def after(result: list[str]) -> list[str]:
        return [*result, "other"]

    source = HookSource(plugin_name="other", dist_name="other")
    HookRegistry.register(PATH, after, HookType.AFTER, source=source)


@pytest.mark.parametrize("other", ["none", "registered", "applied"])
def test_another_plugin_on_the_same_symbol(engine: Any, other: str) -> None:
    assert hooks.unapplied() == [f"{PATH} was not hooked"]
    if other != "none":
        register_another()
    if other == "applied":
        HookRegistry.apply_hooks()
        assert hooks.unapplied() == [f"{PATH} was not hooked"], "it is another plugin's hook"
    hooks.apply((SYMBOL,))
    hooks.apply((SYMBOL,))
    assert hooks.unapplied() == []
    assert sorted(engine.sample()) == sorted(["engine", "led", *(["other"] * (other != "none"))])
