"""Compile the CPU step at launch, or say why not; what it serves from then on.

What is not compiled is served by the torch path: no request ever meets a compiler, or its error.
"""

from __future__ import annotations

import warnings
from types import ModuleType

from led_sglang.kernels.dispatch import serve_on_cpu


def prewarm() -> str | None:
    """Compile the step for CPU tensors, once, at launch: seconds the first time on a machine.

    Returns:
        None when it is ready: from then on ``impl="auto"`` uses it for every step on a CPU.
        Otherwise the reason why the torch path serves, which a RuntimeWarning names too.
    """
    try:
        serve_on_cpu(compiled_step())
    except Exception as error:  # Numba, LLVM and the file system of its cache raise their own
        summary = (str(error).splitlines() or [""])[0]
        reason = f"the CPU step did not compile: {type(error).__name__}: {summary}"
        warnings.warn(reason, RuntimeWarning, stacklevel=2)
        return reason
    return None


def withdraw() -> None:
    """Undo ``prewarm``: from now on ``impl="auto"`` is torch on a CPU."""
    serve_on_cpu(None)


def compiled_step() -> ModuleType:
    """The module `step`, compiled; its import alone takes a second."""
    from . import step

    step.compile_all()
    return step
