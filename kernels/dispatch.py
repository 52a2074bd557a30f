"""One entry point per operation; ``impl`` chooses who computes it.

``torch`` runs anywhere; ``triton`` forces the kernels, on a GPU or in Triton's interpreter; ``cpu``
forces the step that ``serve_on_cpu`` was given. ``auto`` is ``triton`` for what ``prewarm`` has
made ready on the tensors' device, else ``cpu`` for tensors there if that step takes them, else
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


# The step of `serve_on_cpu`.
_cpu_step: ModuleType | None = None


def serve_on_cpu(step: ModuleType | None) -> None:
    """Serve CPU tensors with a step compiled elsewhere, or no longer (None).

    step: has ``final_posterior`` (of fp32 logits), ``draw_noise`` and ``led_step``, as this module.
    """
    global _cpu_step
    _cpu_step = step


def _implementation(
    impl: str,
    triton_ready: bool,
    torch_path: ModuleType,
    tensor: Tensor,
    dtype: torch.dtype | None = None,
) -> Any:
    """Who computes: `tensor` says where, and `dtype`, if given, is all that the CPU step takes."""
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl is {impl!r}: choose one of {', '.join(IMPLEMENTATIONS)}")
    if impl == "triton" or (impl == "auto" and triton_ready):
        return triton_impl
    if impl == "cpu":
        if _cpu_step is None:
            raise ValueError("impl is 'cpu', and no step is compiled for a CPU: prewarm it first")
        return _cpu_step
    fits = tensor.device.type == "cpu" and dtype in (None, tensor.dtype)
    return _cpu_step if impl == "auto" and _cpu_step is not None and fits else torch_path


def final_posterior(
    logits: Tensor, rows: LedRows, limits: LedLimits, *, impl: str = "auto"
) -> FinalPosterior:
    """Steps 1 and 2; see ``torch_impl.final_posterior``. ValueError for an unknown ``impl``."""
    implementation = _implementation(
        impl, serves_posterior(logits, limits), torch_impl, logits, torch.float32
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
    implementation = _implementation(impl, serves_noise(candidate_ids), torch_noise, candidate_ids)
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
        impl, serves_step(final, latents, limits, head), torch_impl, latents
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
