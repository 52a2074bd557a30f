"""In a server: torch raises where a part of LED's step waits for the device.

SGLang's own waits are its business: the watch is on around this package's hooks alone.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch

# Where LED computes on the device, from the batch's rows to the copies of its records.
WATCHED = (
    ("led_sglang.methods.rows", "RowTable", ("build", "keep", "join")),
    (
        "led_sglang.patches.methods_at_work",
        "MethodsAtWork",
        ("change_logits", "decide", "publish"),
    ),
    ("led_sglang.patches.batch_step", "BatchStep", ("take_over",)),
    ("led_sglang.methods.regular", "SeededRows", ("of", "of_drafts", "pick")),
    ("led_sglang.phase", "PhaseTracker", ("begin", "begin_drafts", "commit")),
    ("led_sglang.kernels.phase", "ThinkPhase", ("finish",)),
    ("led_sglang.patches.embedding", "SoftInputs", ("restore", "_embed")),
    ("led_sglang.patches.statistics", "StepStatistics", ("copy_to_host",)),
)


def register() -> None:
    """Called by SGLang in every process; only a scheduler's event loop is watched."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    target = "sglang.srt.managers.scheduler.Scheduler.run_event_loop"
    HookRegistry.register(target, _install, HookType.BEFORE)


def _install(self: Any) -> None:
    for module, name, methods in WATCHED:
        owner = getattr(importlib.import_module(module), name)
        for method in methods:
            original = vars(owner)[method]
            if isinstance(original, classmethod):
                setattr(owner, method, classmethod(watched(original.__func__)))
            else:
                setattr(owner, method, watched(original))
    print("led-sglang: first light watches for waits", flush=True)


def watched(original: Callable[..., Any]) -> Callable[..., Any]:
    """The same function; an operation in it that waits for the device raises."""

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            return original(*args, **kwargs)
        finally:
            torch.cuda.set_sync_debug_mode(before)

    return wrapper
