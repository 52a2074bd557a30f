"""How the CPU step is compiled: by Numba, which is one of SGLang's own requirements."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit
from numba.core.dispatcher import Dispatcher

# Sums may be taken in vectors and products fused; NaN and infinity keep their meaning.
_FAST = {"reassoc", "contract", "arcp"}

compiled: Callable[..., Any] = njit(cache=True, nogil=True, error_model="numpy")
vectorised: Callable[..., Any] = njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)


def compile_for(function: Dispatcher, *arguments: object) -> None:
    """Compile for these argument types, and never for others: a call with them raises TypeError.

    Machine code is kept on disk.
    """
    _forget_older_code(function)
    function.compile(arguments)
    function.disable_compile()


def _forget_older_code(function: Dispatcher) -> None:
    """Delete the function's code on disk where it is older than a source file of this folder.

    Numba looks at the file of the function alone, not at those of the functions that it calls.
    """
    newest = max(file.stat().st_mtime for file in Path(__file__).parent.glob("*.py"))
    name = function.py_func.__qualname__
    stem = Path(function.py_func.__code__.co_filename).stem
    for index in Path(function.stats.cache_path).glob(f"{stem}.{name}-*.nbi"):
        if index.stat().st_mtime < newest:
            index.unlink(missing_ok=True)
