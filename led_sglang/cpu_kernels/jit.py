"""How the CPU step is compiled: by Numba, which is one of SGLang's own requirements.

Machine code is kept on disk, by source file. Numba does not see that a function of another file has
changed: a compiled function calls those of its own file only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit
from numba.core.dispatcher import Dispatcher

# Sums may be taken in vectors and products fused; NaN and infinity keep their meaning.
_FAST = {"reassoc", "contract", "arcp"}

compiled: Callable[..., Any] = njit(cache=True, nogil=True, error_model="numpy")
vectorised: Callable[..., Any] = njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)


def compile_for(function: Dispatcher, *arguments: object) -> None:
    """Compile for these argument types, and never for others: a call with them raises TypeError."""
    function.compile(arguments)
    function.disable_compile()
