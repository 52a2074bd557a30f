"""Compile the CPU step at launch, or say why not; what it serves from then on.

What is not compiled is served by the torch path: no request ever meets a compiler, or its error.
"""

from __future__ import annotations

import warnings
from types import ModuleType

import torch
from torch import Tensor

# The module of the compiled step, once it is ready. Its import takes a second.
_ready: ModuleType | None = None


def prewarm_cpu() -> str | None:
    """Compile the step for CPU tensors, once, at launch: seconds the first time on a machine.

    Returns:
        None when it is ready: from then on ``impl="auto"`` uses it for every step on a CPU.
        Otherwise the reason why the torch path serves, which a RuntimeWarning names too.
    """
    global _ready
    try:
        _ready = compiled_step()
    except Exception as error:  # Numba, LLVM and the file system of its cache raise their own
        summary = (str(error).splitlines() or [""])[0]
        reason = f"the CPU step did not compile: {type(error).__name__}: {summary}"
        warnings.warn(reason, RuntimeWarning, stacklevel=2)
        return reason
    return None


def withdraw_cpu() -> None:
    """Undo ``prewarm_cpu``: from now on ``impl="auto"`` is torch on a CPU."""
    global _ready
    _ready = None


def compiled_step() -> ModuleType:
    """`cpu_impl`, compiled."""
    from . import cpu_impl

    cpu_impl.compile_all()
    return cpu_impl


def ready_for(tensor: Tensor, dtype: torch.dtype | None = None) -> ModuleType | None:
    """The compiled step if ``prewarm_cpu`` made it ready and it takes this tensor, else None."""
    fits = tensor.device.type == "cpu" and dtype in (None, tensor.dtype)
    return _ready if fits else None
