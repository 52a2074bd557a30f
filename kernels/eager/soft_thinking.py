"""The mixture of embeddings that SoftThinking feeds back, in plain torch, on any device.

See docs/method.md#soft-thinking.

All shapes come from the host, nothing asks the device for a value.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from .noise import gumbel_from_hash, hash32, uniform_from_hash
from .posterior import largest_ids


class SoftNoise(IntEnum):
    """What is put on the weights."""

    NONE = 0
    GUMBEL = 1
    DIRICHLET = 2


@dataclass(frozen=True)
class SoftRows:
    """What each soft request asked for; every field is [B], on the device."""

    temperature: Tensor  # f32, > 0
    top_k: Tensor  # int64, >= 1; V or more: no filter
    top_p: Tensor  # f32, (0, 1]
    min_p: Tensor  # f32, [0, 1]
    max_topk: Tensor  # int64, 1 .. SoftLimits.width
    noise: Tensor  # int64, a SoftNoise
    noise_value: Tensor  # f32, Gumbel temperature or Dirichlet concentration


@dataclass(frozen=True)
class SoftLimits:
    """Batch-wide sizes the host knows without asking the device; they fix every shape."""

    width: int  # K, the largest of SoftRows.max_topk
    depth: int  # ranks looked at: the largest filtered top_k, V with Dirichlet noise and no top_k
    gumbel: bool  # any row with SoftNoise.GUMBEL
    dirichlet: bool  # any row with SoftNoise.DIRICHLET


@dataclass(frozen=True)
class SoftMixture:
    """The next input of each row: sum over i of weights[i] E[ids[i]]."""

    ids: Tensor  # [B, K] int64, by falling weight; the first is the token to emit
    weights: Tensor  # [B, K] f32, sum 1; 0 for what was filtered out
    entropy: Tensor  # [B] f32, of the tempered posterior over V in nats, before any filter


def soft_mixture(
    logits: Tensor, rows: SoftRows, limits: SoftLimits, seeds: Tensor, positions: Tensor
) -> SoftMixture:
    """Filter, noise and weights of one step.

    Filters act one after the other, each on what the one before has left and renormalised, as in
    the authors' code: top_k, top_p, min_p; then noise of a Dirichlet, the cut to max_topk, noise of
    Gumbel. What survives a filter is a prefix of the tokens by falling probability.

    Args:
        logits: [B, V], with bias, penalties and grammar applied.
        rows, limits: of the batch.
        seeds, positions: [B] int64; the noise is a hash of them and the vocabulary id
            (docs/method.md#randomness).
    """
    vocab = logits.shape[1]
    width = min(limits.width, vocab)
    depth = min(max(limits.depth, width), vocab)
    logits = logits.float()
    scaled = logits / rows.temperature[:, None]
    log_p = scaled.log_softmax(1)
    entropy = -torch.special.xlogy(log_p.exp(), log_p.exp()).sum(1)

    ids = largest_ids(logits, depth)
    kept = log_p.gather(1, ids).double().exp()
    rank = torch.arange(depth, device=logits.device)
    no_top_k = rows.top_k >= vocab
    kept = torch.where(rank < rows.top_k[:, None], kept, 0.0)
    # Ranks beyond `depth` still belong to the mass of a row without top_k.
    mass = torch.where(no_top_k, 1.0, kept.sum(1))
    before = (kept.cumsum(1) - kept) / mass[:, None]
    top_p = rows.top_p.double()[:, None]
    kept = torch.where((before < top_p) | (top_p >= 1.0), kept, 0.0)
    kept = torch.where(kept >= kept[:, :1] * rows.min_p.double()[:, None], kept, 0.0)

    if limits.dirichlet:
        concentration = kept / kept.sum(1, keepdim=True) * rows.noise_value.double()[:, None]
        drawn = _dirichlet(concentration, seeds, positions, ids)
        kept = torch.where((rows.noise == SoftNoise.DIRICHLET)[:, None], drawn, kept)
        kept, order = kept.sort(dim=1, descending=True, stable=True)
        ids = ids.gather(1, order)
    ids, kept = ids[:, :width], kept[:, :width]
    kept = torch.where(rank[:width] < rows.max_topk[:, None], kept, 0.0)
    weights = kept / kept.sum(1, keepdim=True)

    if limits.gumbel:
        noise = gumbel_from_hash(hash32(seeds[:, None], positions[:, None], ids))
        noisy = (weights.log() + noise) / rows.noise_value.double()[:, None]
        noisy = noisy.softmax(1)
        weights = torch.where((rows.noise == SoftNoise.GUMBEL)[:, None], noisy, weights)
        weights, order = weights.sort(dim=1, descending=True, stable=True)
        ids = ids.gather(1, order)
    return SoftMixture(ids, weights.float(), entropy)


def mix_embeddings(embeddings: Tensor, weights: Tensor) -> Tensor:
    """sum over i of w_i E[id_i], accumulated in fp32: [B, H] f32 from [B, K, H] and [B, K]."""
    return torch.bmm(weights[:, None].float(), embeddings.float())[:, 0]


# Rejections of Marsaglia and Tsang's method are rarer than 1 in 20: all of 8 fail once in 10^10.
_ATTEMPTS = 8
# Hash columns of one use of noise lie this far from those of another: above any vocabulary.
_STREAM = 2**24


def _dirichlet(concentration: Tensor, seeds: Tensor, positions: Tensor, ids: Tensor) -> Tensor:
    """Dirichlet draws [B, S] f64 with parameters `concentration` [B, S]; 0 where that is 0.

    Gamma(a) = Gamma(a + 1) U^(1/a), in logarithms, since small a would underflow; Gamma(a + 1) by
    Marsaglia and Tsang (2000), with noise hashed from the vocabulary id.
    """

    def uniform(stream: int) -> Tensor:
        column = ids + (stream + 1) * _STREAM
        return uniform_from_hash(hash32(seeds[:, None], positions[:, None], column))

    live = concentration > 0
    a = torch.where(live, concentration, 1.0)
    d = a + 1.0 - 1.0 / 3.0
    c = 1.0 / (9.0 * d).sqrt()
    cube = torch.ones_like(a)
    found = torch.zeros_like(live)
    for attempt in range(_ATTEMPTS):
        u1, u2, u = (uniform(3 * attempt + i) for i in range(3))
        normal = (-2.0 * (1.0 - u1).log()).sqrt() * (2.0 * torch.pi * u2).cos()
        v = (1.0 + c * normal).pow(3)
        accepted = (v > 0) & (
            (1.0 - u).log() < 0.5 * normal**2 + d - d * v + d * v.clamp(min=1e-300).log()
        )
        cube = torch.where(accepted & ~found, v, cube)
        found |= accepted
    boost = (1.0 - uniform(3 * _ATTEMPTS)).log() / a
    log_gamma = torch.where(live, (d * cube).log() + boost, -torch.inf)
    return log_gamma.softmax(1)
