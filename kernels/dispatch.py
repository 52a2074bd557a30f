"""One entry point per operation; ``impl`` chooses who computes it.

``torch`` runs anywhere; ``triton`` forces the kernels, on a GPU or in Triton's interpreter;
``auto`` is ``triton`` for what ``prewarm`` has made ready on the tensors' device, else ``torch``.
"""

from __future__ import annotations

from collections.abc import Callable

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

IMPLEMENTATIONS = ("auto", "torch", "triton")


def _uses_triton(impl: str, ready: bool) -> bool:
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl is {impl!r}: choose one of {', '.join(IMPLEMENTATIONS)}")
    return impl == "triton" or (impl == "auto" and ready)


def final_posterior(
    logits: Tensor, rows: LedRows, limits: LedLimits, *, impl: str = "auto"
) -> FinalPosterior:
    """Steps 1 and 2; see ``torch_impl.final_posterior``. ValueError for an unknown ``impl``."""
    triton = _uses_triton(impl, serves_posterior(logits, limits))
    implementation = triton_impl if triton else torch_impl
    return implementation.final_posterior(logits, rows, limits)


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
    triton = _uses_triton(impl, serves_noise(candidate_ids))
    implementation = triton_impl if triton else torch_noise
    return implementation.draw_noise(stream, seeds, has_seed, positions, candidate_ids)


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

    All ranks must take the same implementation: the two round differently. Where ``prewarm`` fails
    on one rank, the others ``withdraw``.
    """
    triton = _uses_triton(impl, serves_step(final, latents, limits, head))
    implementation = triton_impl if triton else torch_impl
    return implementation.led_step(
        final,
        latents,
        rows,
        limits,
        head,
        noise,
        final_norm=final_norm,
        all_gather=all_gather,
    )
