"""The LED step compiled for a CPU. Imports Numba, so whoever asks for it imports it then.

What the arguments of compiled functions are stands beside each.
"""

from .step import CpuStep

__all__ = ["CpuStep"]
