"""Kernels of the LED step. Imports torch and triton only, nothing of SGLang.

A step is ``final_posterior`` (SPEC 2, steps 1 and 2), ``draw_noise`` for the candidates it names,
then ``led_step`` (steps 3 to 7). ``led_reference`` is the float64 oracle for both.
"""

from .dispatch import draw_noise, final_posterior, led_step
from .noise import gumbel_from_hash, hash32, noise_origins, seeded_noise, uniform_from_hash
from .readiness import prewarm, withdraw
from .reference import LedReference, led_reference
from .support import device_reason, unsupported_reason
from .triton_impl import projected_rows
from .types import (
    FinalPosterior,
    Gate,
    LedLimits,
    LedResult,
    LedRows,
    LmHeadShard,
    NoiseStream,
    StepNoise,
)

__all__ = [
    "FinalPosterior",
    "Gate",
    "LedLimits",
    "LedReference",
    "LedResult",
    "LedRows",
    "LmHeadShard",
    "NoiseStream",
    "StepNoise",
    "device_reason",
    "draw_noise",
    "final_posterior",
    "gumbel_from_hash",
    "hash32",
    "led_reference",
    "led_step",
    "noise_origins",
    "prewarm",
    "projected_rows",
    "seeded_noise",
    "uniform_from_hash",
    "unsupported_reason",
    "withdraw",
]
