"""The LED step compiled for a CPU. Imports Numba, so whoever asks for it imports it then."""

from .step import CpuStep

__all__ = ["CpuStep"]
