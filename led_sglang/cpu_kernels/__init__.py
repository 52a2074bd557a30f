"""The LED step compiled for a CPU. Imports torch and Numba, and the kernels' types.

`prewarm` compiles it and has `led_sglang.kernels` serve CPU tensors with it, `withdraw` ends that.
"""

from .readiness import prewarm, withdraw

__all__ = ["prewarm", "withdraw"]
