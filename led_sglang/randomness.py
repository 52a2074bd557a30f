"""Noise of the picks and gates (SPEC section 3).

A request with a seed gets noise that is a hash of (seed, position, vocabulary id): the same tokens
whatever else is in the batch, whatever the tensor-parallel width, and after a retraction. Without a
seed, noise comes from a stream of LED's own, so the engine's generator stays untouched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from led_sglang import kernels
from led_sglang.kernels import StepNoise

if TYPE_CHECKING:
    from led_sglang.samplers.rows import RowTable

# Keeps LED's stream apart from a request's seed of the same number.
_STREAM = 0x1ED


class NoiseSource:
    """Draws each step's noise; every tensor-parallel rank builds one with the same seed."""

    def __init__(self, server_seed: int, data_parallel_rank: int, device: torch.device | str):
        seed = (server_seed << 16) + (data_parallel_rank << 12) + _STREAM
        self._stream = kernels.NoiseStream.start(seed, device)

    def draw(self, table: RowTable, candidate_ids: Tensor, positions: Tensor) -> StepNoise:
        """Noise of one step.

        Args:
            table: the batch's rows, B of them.
            candidate_ids: [B, K] int64 vocabulary ids.
            positions: [B] int64.

        Returns:
            Uniforms [B] for the gates and Gumbel noise [B, K] for the picks, both f64. Every call
            moves the stream on by one step, whatever the data: ranks cannot drift apart.
        """
        return kernels.draw_noise(
            self._stream, table.seeds, table.has_seed, positions.long(), candidate_ids
        )

    def origins(self, table: RowTable, positions: Tensor) -> tuple[Tensor, Tensor]:
        """What a method hashes with vocabulary ids by itself: seeds and positions, [B] int64 each.

        Args:
            table, positions: as in `draw`, which treats rows without a seed alike.
        """
        return kernels.noise_origins(self._stream, table.seeds, table.has_seed, positions.long())


def seeded_pick(
    probs: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    seeds: Tensor,
    positions: Tensor,
    max_top_k: int | None,
) -> Tensor:
    """Sample filtered posteriors with seeded noise: the engine's part in seeded requests.

    SGLang ignores a request's seed unless the whole server runs deterministic inference; its
    filters (top-k, then top-p over the unfiltered mass, then min-p) are kept.

    Args:
        probs: [B, V] f32 posteriors at the request's temperature; not modified.
        top_k, top_p, min_p: [B] the requests' own filters.
        seeds, positions: [B] int64.
        max_top_k: an upper bound of `top_k`, or None where some row samples the whole vocabulary.

    Returns:
        token ids [B] int64.
    """
    vocab = probs.shape[1]
    if max_top_k is not None and max_top_k < vocab:
        kept, ids = probs.topk(max_top_k, dim=1)
    else:
        kept, ids = probs.sort(dim=1, descending=True, stable=True)
    rank = torch.arange(kept.shape[1], device=probs.device)
    mass_before = kept.cumsum(1) - kept
    out = (rank >= top_k[:, None]) | (mass_before > top_p[:, None])
    out |= kept < kept[:, :1] * min_p[:, None]
    noise = kernels.seeded_noise(seeds, positions, ids)
    score = kept.double().log() + noise.pick
    pick = score.masked_fill(out, -torch.inf).argmax(1, keepdim=True)
    return ids.gather(1, pick)[:, 0]
