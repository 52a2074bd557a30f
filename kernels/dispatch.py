"""One entry point per operation; ``impl`` chooses who computes it.

``torch`` runs anywhere; ``triton`` forces the kernels, on a GPU or in Triton's interpreter; ``cpu``
forces the step that Numba compiles for a CPU. ``auto`` is ``triton`` for what ``prewarm`` has made
ready on the tensors' device, else ``cpu`` where ``prewarm_cpu`` has and the tensors are there, else
``torch``.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from . import noise as torch_noise
from . import torch_impl, triton_impl
from .cpu_readiness import compiled_step, ready_for
from .readiness import serves_noise, serves_posterior, serves_step
from .types import (
    FinalPosterior,
    LedLimits,
    LedResult,
    LedRows,
    LmHeadShard,
    NoiseStream,
    StepNoise,
)

IMPLEMENTATIONS = ("auto", "torch", "triton", "cpu")


def _implementation(
    impl: str, triton_ready: bool, cpu_ready: ModuleType | None, torch_path: ModuleType
) -> Any:
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl is {impl!r}: choose one of {', '.join(IMPLEMENTATIONS)}")
    if impl == "triton" or (impl == "auto" and triton_ready):
        return triton_impl
    if impl == "cpu":
        return compiled_step()
    return (cpu_ready if impl == "auto" else None) or torch_path


def final_posterior(
    logits: Tensor, rows: LedRows, limits: LedLimits, *, impl: str = "auto"
) -> FinalPosterior:
    """Steps 1 and 2; see ``torch_impl.final_posterior``. ValueError for an unknown ``impl``."""
    implementation = _implementation(
        impl, serves_posterior(logits, limits), ready_for(logits, torch.float32), torch_impl
    )
    posterior: FinalPosterior = implementation.final_posterior(logits, rows, limits)
    return posterior


def draw_noise(
    stream: NoiseStream,
    seeds: Tensor,
    has_seed: Tensor,
    positions: Tensor,
    candidate_ids: Tensor,
    *,
    impl: str = "auto",
) -> StepNoise:
    """The randomness between steps 2 and 3; see ``noise.draw_noise``. ValueError for an unknown
    ``impl``."""
    implementation = _implementation(
        impl, serves_noise(candidate_ids), ready_for(candidate_ids), torch_noise
    )
    noise: StepNoise = implementation.draw_noise(stream, seeds, has_seed, positions, candidate_ids)
    return noise


def led_step(
    final: FinalPosterior,
    latents: Tensor,
    rows: LedRows,
    limits: LedLimits,
    head: LmHeadShard,
    noise: StepNoise,
    *,
    final_norm: Callable[[Tensor], Tensor] | None = None,
    all_gather: Callable[[Tensor], Tensor] | None = None,
    impl: str = "auto",
) -> LedResult:
    """Steps 3 to 7; see ``torch_impl.led_step``. ValueError for an unknown ``impl``.

    All ranks must take the same implementation: they round differently. Where ``prewarm`` fails on
    one rank, the others ``withdraw``.
    """
    implementation = _implementation(
        impl, serves_step(final, latents, limits, head), ready_for(latents), torch_impl
    )
    result: LedResult = implementation.led_step(
        final,
        latents,
        rows,
        limits,
        head,
        noise,
        final_norm=final_norm,
        all_gather=all_gather,
    )
    return result
