"""Float64 oracle of SoftThinking for one row, step by step (docs/method.md#soft-thinking)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SoftReference:
    """One step, float64."""

    entropy: float
    filtered: Tensor  # [V], after top_k, top_p, min_p
    ids: list[int]
    weights: Tensor  # as long as ids; the first is the largest


def soft_reference(
    logits: Tensor,
    *,
    temperature: float,
    top_k: int = -1,
    top_p: float = 1.0,
    min_p: float = 0.0,
    max_topk: int = 10,
    gumbel: Tensor | None = None,
    gumbel_temperature: float = 0.5,
    gamma: Tensor | None = None,
) -> SoftReference:
    """The mixture of one step.

    Args:
        logits: [V].
        gumbel: [V] Gumbel(0, 1) noise by vocabulary id: the Gumbel variant.
        gamma: [V] Gamma(concentration) draws by vocabulary id: the Dirichlet variant.
    """
    p = (logits.double() / temperature).softmax(0)
    entropy = float(-torch.special.xlogy(p, p).sum())
    if 0 < top_k < len(p):
        p = _keep(p, p.argsort(descending=True, stable=True)[:top_k])
    if top_p < 1.0:
        order = p.argsort(descending=True, stable=True)
        before = p[order].cumsum(0) - p[order]
        p = _keep(p, order[before < top_p])
    p = _keep(p, (p >= min_p * p.max()).nonzero()[:, 0])
    filtered = p
    if gamma is not None:
        p = torch.where(p > 0, gamma, 0.0)
        p = p / p.sum()
    ids = p.argsort(descending=True, stable=True)[:max_topk]
    ids = ids[p[ids] > 0]
    weights = p[ids] / p[ids].sum()
    if gumbel is not None:
        weights = ((weights.log() + gumbel[ids]) / gumbel_temperature).softmax(0)
        order = weights.argsort(descending=True, stable=True)
        ids, weights = ids[order], weights[order]
    return SoftReference(entropy, filtered, ids.tolist(), weights)


def _keep(p: Tensor, ids: Tensor) -> Tensor:
    kept = torch.zeros_like(p).index_copy(0, ids, p[ids])
    return kept / kept.sum()
