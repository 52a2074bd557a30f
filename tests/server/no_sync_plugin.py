"""Watches the whole of a decode step for values that this package reads back to the host.

From the preparation of the batch to the copy of its statistics, `.item()`, `.tolist()`, `.cpu()`,
`.numpy()`, `bool()` and indexing with a boolean mask are noted where this package calls them. What
SGLang does beside it is its own business, and so are statistics once they are on the host. On a CPU
the compiled step may look at memory (`.numpy()`, which raises for a GPU's tensors) and the torch
path may count its rows (`nonzero`); tests/kernels/test_kernel_no_sync.py holds the GPU's path to
more.
"""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Names the file for what ran and for what should not have.
LOG = "LED_NO_SYNC_LOG"
# Where a step's hooks lie, and the sampler itself.
WATCHED = (
    ("sglang.srt.model_executor.model_runner", "ModelRunner", "sample"),
    ("sglang.srt.model_executor.forward_batch_info", "ForwardBatch", "init_new"),
    ("sglang.srt.sampling.sampling_batch_info", "SamplingBatchInfo", "adjusted_filter_batch"),
    ("sglang.srt.sampling.sampling_batch_info", "SamplingBatchInfo", "adjusted_merge_batch"),
    ("sglang.srt.sampling.sampling_batch_info", "SamplingBatchInfo", "copy_for_forward"),
    ("led_sglang.patches.statistics", "StepStatistics", "copy_to_host"),
)
PACKAGE = "led_sglang."
# Serves tensors on a CPU, and no others: it may call `.numpy()`.
CPU_STEP = "led_sglang.kernels.cpu."

_MASKABLE = ("index", "index_put", "index_put_", "masked_select")
_READS = ("aten._local_scalar_dense.default", "aten.is_nonzero.default")
_written: set[str] = set()
_watching = 0


def register() -> None:
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    # By then every hook of the package is in place.
    target = "sglang.srt.managers.scheduler.Scheduler.run_event_loop"
    HookRegistry.register(target, _install, HookType.BEFORE)


def _install(self: Any) -> None:
    import importlib

    for module, name, method in WATCHED:
        owner = getattr(importlib.import_module(module), name)
        original = vars(owner)[method]
        if isinstance(original, classmethod):
            setattr(owner, method, classmethod(watched(original.__func__, method)))
        else:
            setattr(owner, method, watched(original, method))
    forbid_methods()


class _Reads(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if str(func) in _READS:
            _complain(str(func))
        if func.overloadpacket.__name__ in _MASKABLE:
            index = args[1] if isinstance(args[1], list | tuple) else [args[1]]
            if any(i is not None and i.dtype is torch.bool for i in index):
                _complain(f"{func} with a boolean mask")
        return func(*args, **(kwargs or {}))


def watched(original: Any, name: str) -> Any:
    """The same function, with what it reads back noted."""

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        global _watching
        _note(f"ran {name}")
        _watching += 1
        try:
            with _Reads():
                return original(*args, **kwargs)
        finally:
            _watching -= 1

    return wrapper


def forbid_methods() -> None:
    """Make the methods that read a tensor note who calls them."""
    for name in ("item", "tolist", "cpu", "numpy"):
        original = getattr(torch.Tensor, name)

        def method(
            self: Any, *args: Any, _name: str = name, _original: Any = original, **kwargs: Any
        ) -> Any:
            if _watching:
                _complain(f".{_name}()")
            return _original(self, *args, **kwargs)

        setattr(torch.Tensor, name, method)


def _complain(what: str) -> None:
    """Note it where the nearest caller outside torch and this file is the package."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        module = frame.f_globals.get("__name__", "")
        if module != __name__ and module.partition(".")[0] != "torch":
            allowed = module.startswith(CPU_STEP) and what == ".numpy()"
            if module.startswith(PACKAGE) and not allowed:
                _note(f"violation: {what} in {module}, line {frame.f_lineno}")
            return
        frame = frame.f_back


def _note(line: str) -> None:
    if line not in _written:
        _written.add(line)
        with Path(os.environ[LOG]).open("a") as out:
            out.write(line + "\n")
