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


@pytest.mark.parametrize("way", ["as SGLang does it", "as this package does it"])
def test_what_other_modules_have_imported_is_hooked(
    engine: Any, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Under the same name and under another one; where they have something else, it stays."""
    monkeypatch.setattr(hooks, "_HOOKS", [])
    register_another()
    user, second = ModuleType("user_of_this_test"), ModuleType("second_user_of_this_test")
    user.sample, user.draw, user.other = engine.sample, engine.sample, len  # type: ignore[attr-defined]
    second.sample = engine.sample  # type: ignore[attr-defined]
    for module in (user, second):
        monkeypatch.setitem(sys.modules, module.__name__, module)

    # Another plugin's hook on the function where the second module has it.
    def twice(result: list[str]) -> list[str]:
        return [*result, "second"]

    HookRegistry.register("second_user_of_this_test.sample", twice, HookType.AFTER)
    if way == "as SGLang does it":
        HookRegistry.apply_hooks()
    else:
        hooks.apply((SYMBOL,))
    assert engine.sample() == user.sample() == user.draw() == ["engine", "other", "second"]
    assert second.sample() == ["engine", "other", "second"]
    assert user.other is len
    # An import from now on.
    assert sys.modules[PATH.partition(".")[0]].sample is engine.sample


def test_a_symbol_that_is_gone_stops_no_other_hook(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = Symbol("engine_of_this_test.gone", None, "")
    declared = [*hooks._HOOKS, (gone, "AFTER", lambda result: result)]
    monkeypatch.setattr(hooks, "_HOOKS", declared)
    hooks.apply((SYMBOL, gone))
    assert engine.sample() == ["engine", "led"]
    assert hooks.unapplied() == ["engine_of_this_test.gone was not hooked"]
