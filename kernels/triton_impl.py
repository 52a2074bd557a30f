"""LED step in Triton kernels: only the rows that explore are projected, and only the device knows
how many they are.

Nothing here asks the device for a value, launch shapes depend on the batch's size and limits alone,
and all memory, results included, is allocated once per device: a step overwrites the results of the
one before. One stream at a time may run steps on a device.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from . import noise_kernel, torch_impl
from .compact import gate_and_compact, gather_latents
from .explore import combine
from .latent_lse import latent_lse
from .noise_kernel import NoiseWorkspace
from .partials import latent_partials
from .support import unsupported_reason
from .topk_gate import PosteriorWorkspace, posterior
from .types import (
    FinalPosterior,
    LedLimits,
    LedResult,
    LedRows,
    LmHeadShard,
    NoiseStream,
    StepNoise,
)
from .workspace import StepWorkspace

__all__ = [
    "draw_noise",
    "final_posterior",
    "led_step",
    "noise_workspace",
    "posterior_workspace",
    "projected_rows",
    "step_workspace",
]

_POSTERIOR: dict[torch.device, PosteriorWorkspace] = {}
_NOISE: dict[torch.device, NoiseWorkspace] = {}
_STEP: dict[torch.device, StepWorkspace] = {}


def posterior_workspace(
    batch: int, candidates: int, vocab: int, device: torch.device
) -> PosteriorWorkspace:
    """The device's workspace of K0; replaced by a larger one if these sizes do not fit it."""
    workspace = _POSTERIOR.get(device)
    if workspace is None or not workspace.fits(batch, candidates, vocab):
        workspace = PosteriorWorkspace.allocate(batch, candidates, vocab, device)
        _POSTERIOR[device] = workspace
    return workspace


def noise_workspace(batch: int, candidates: int, device: torch.device) -> NoiseWorkspace:
    """The device's memory for noise; replaced by a larger one if these sizes do not fit it."""
    workspace = _NOISE.get(device)
    if workspace is None or not workspace.fits(batch, candidates):
        workspace = NoiseWorkspace.allocate(batch, candidates, device)
        _NOISE[device] = workspace
    return workspace


def step_workspace(
    batch: int, layers: int, candidates: int, weight: Tensor, columns: int
) -> StepWorkspace:
    """The device's workspace of K1 to K4; replaced by a new one if these sizes do not fit it."""
    workspace = _STEP.get(weight.device)
    if workspace is None or not workspace.fits(batch, layers, candidates, weight, columns):
        workspace = StepWorkspace.allocate(batch, layers, candidates, weight, columns)
        _STEP[weight.device] = workspace
    return workspace


def projected_rows() -> int:
    """Latent rows that the kernels have sent through the LM head since they were made ready.

    Waits for the devices: for whoever asks now and then, not for a step.
    """
    return sum(int(workspace.live_total) for workspace in _STEP.values())


def final_posterior(logits: Tensor, rows: LedRows, limits: LedLimits) -> FinalPosterior:
    """Steps 1 and 2 by K0; the contract of ``torch_impl.final_posterior``.

    Raises ValueError for more candidates than the kernels hold.
    """
    batch, vocab = logits.shape
    candidates = min(limits.candidates, vocab)
    reason = unsupported_reason(candidates=candidates)
    if reason is not None:
        raise ValueError(f"the Triton kernels cannot serve this: {reason}")
    workspace = posterior_workspace(batch, candidates, vocab, logits.device)
    return posterior(logits, rows, limits, workspace)


def draw_noise(
    stream: NoiseStream, seeds: Tensor, has_seed: Tensor, positions: Tensor, candidate_ids: Tensor
) -> StepNoise:
    """Noise of one step in one launch; the contract of ``noise.draw_noise``."""
    batch, candidates = candidate_ids.shape
    workspace = noise_workspace(batch, candidates, candidate_ids.device)
    return noise_kernel.draw_noise(stream, seeds, has_seed, positions, candidate_ids, workspace)


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
) -> LedResult:
    """Steps 3 to 7 by K1 to K4; the contract of ``torch_impl.led_step``, the one all_gather and its
    shape included. ``projected_rows`` is None.

    A head without a plain weight goes to ``torch_impl``, on any device. Raises ValueError as
    ``torch_impl.led_step`` does, and for what ``unsupported_reason`` names.
    """
    if head.weight is None:
        return torch_impl.led_step(
            final, latents, rows, limits, head, noise, final_norm=final_norm, all_gather=all_gather
        )
    torch_impl.refuse_what_is_missing(latents, limits, final_norm)
    batch, candidates = final.ids.shape
    layers = limits.depth - 1
    latents_dtype = latents.dtype if layers > 0 else None
    reason = unsupported_reason(head.weight, latents_dtype, candidates, limits.depth)
    if reason is not None:
        raise ValueError(f"the Triton kernels cannot serve this: {reason}")
    workspace = step_workspace(batch, layers, candidates, head.weight, head.valid)

    explored = gate_and_compact(final, rows, noise, layers, workspace)
    norm = final_norm if limits.final_norm else None
    partials = workspace.partials[:0].view(0, candidates + 2)
    for first in workspace.windows(batch, layers):
        gather_latents(latents, rows, layers, first, workspace, norm)
        latent_lse(
            workspace.latent_rows,
            workspace.row_scale,
            workspace.live_count,
            head,
            workspace.tile_max,
            workspace.tile_sum,
            first=first,
            at_most=min(workspace.window, batch * layers - first),
        )
        partials = latent_partials(final.ids, rows, layers, first, head, workspace)
    gathered = partials[None]
    if all_gather is not None and layers > 0:
        gathered = all_gather(partials)
    return combine(gathered, final, rows, noise, explored, layers, workspace)
