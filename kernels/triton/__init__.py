"""The LED step in Triton kernels, for NVIDIA GPUs (and Triton's interpreter).

Kernels are compiled, never called by Python: what their arguments are stands beside each.
"""

from .step import TritonStep
from .support import device_reason

__all__ = ["TritonStep", "device_reason"]
