"""The engine's own sampling for requests with a seed, which it ignores by itself."""

from __future__ import annotations

import torch
from torch import Tensor

from led_sglang.kernels import seeded_noise


def seeded_pick(
    probs: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    seeds: Tensor,
    positions: Tensor,
    max_top_k: int | None,
) -> Tensor:
    """Sample filtered posteriors with seeded noise (docs/method.md#randomness).

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
    noise = seeded_noise(seeds, positions, ids)
    score = kept.double().log() + noise.pick
    pick = score.masked_fill(out, -torch.inf).argmax(1, keepdim=True)
    return ids.gather(1, pick)[:, 0]
