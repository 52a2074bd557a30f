"""The LED step in Triton kernels, for NVIDIA GPUs (and Triton's interpreter)."""

from .step import TritonStep
from .support import device_reason

__all__ = ["TritonStep", "device_reason"]
