"""The LED step: one record file, one protocol, an implementation per folder, and its oracle.

`prepare` chooses the step once at launch; `led_reference` is the float64 oracle that judges it.
Imports torch and triton, and Numba where a CPU's step is asked for; nothing of SGLang.
"""

from .eager import EagerStep
from .eager.noise import gumbel_from_hash, hash32, noise_origins, seeded_noise, uniform_from_hash
from .phase import DeviceTables, ThinkPhase
from .reference import LedReference, latent_posteriors, led_reference
from .step import Step, prepare
from .triton import TritonStep
from .types import (
    AllGather,
    CannotServe,
    Decided,
    Draws,
    FinalNorm,
    FinalPosterior,
    Gate,
    LaunchLimits,
    LedLimits,
    LedResult,
    LedRows,
    LmHeadShard,
    NoiseStream,
    StepNoise,
)

__all__ = [
    "AllGather",
    "CannotServe",
    "Decided",
    "DeviceTables",
    "Draws",
    "EagerStep",
    "FinalNorm",
    "FinalPosterior",
    "Gate",
    "LaunchLimits",
    "LedLimits",
    "LedReference",
    "LedResult",
    "LedRows",
    "LmHeadShard",
    "NoiseStream",
    "Step",
    "StepNoise",
    "ThinkPhase",
    "TritonStep",
    "gumbel_from_hash",
    "hash32",
    "latent_posteriors",
    "led_reference",
    "noise_origins",
    "prepare",
    "seeded_noise",
    "uniform_from_hash",
]
