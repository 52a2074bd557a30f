"""From latent partials to a token, in plain torch: cumulative sums, entropies, pick and q."""

from __future__ import annotations

import torch
from torch import Tensor

from ..types import FinalPosterior, LedLimits, LedResult, LedRows, StepNoise
from .gate import Decision


def combine(
    gathered: Tensor | None,
    final: FinalPosterior,
    rows: LedRows,
    limits: LedLimits,
    noise: StepNoise,
    decision: Decision,
    projected_rows: int | None,
) -> LedResult:
    """The token of every row, and what it was drawn from.

    See docs/method.md#cumulative-sums, docs/method.md#entropy-choice and docs/method.md#token.

    Args:
        gathered: [ranks, B * (D - 1), K + 2] fp32, every rank's `latent_partials`; None where no
            rank projected a row.
        projected_rows: for the result.
    """
    candidate = final.logprobs > -torch.inf
    p = final.logprobs.double().exp()[:, None]
    if gathered is not None:
        lse, logits = merge_partials(gathered)
        p_latent = (logits.double() - lse[:, None]).exp()
        p = torch.cat([p, p_latent.view(len(p), limits.depth - 1, -1)], dim=1)
    elif limits.depth > 1:
        p = torch.nn.functional.pad(p, (0, 0, 0, limits.depth - 1))
    # The floor comes before the normalisation, and never revives what is no candidate.
    if limits.floor:
        p = p.maximum(rows.floor.double()[:, None, None])
    p = torch.where(decision.layer_live[:, :, None] & candidate[:, None], p, 0.0)
    if limits.normalize_layers:
        p = torch.where(rows.normalize_layers[:, None, None], _normalized(p), p)

    # A layer that is not live adds nothing: it ties with a nearer one, which wins.
    a = _normalized(p.cumsum(1))
    star = _first_argmax(-torch.special.xlogy(a, a).sum(2))

    # Gumbel-max over the candidates of the taken side.
    explored, probability = decision.explored, decision.probability
    exploit = a[:, 0]
    explore = a.gather(1, star[:, None, None].expand(-1, 1, a.shape[2]))[:, 0]
    taken = torch.where(explored[:, None], explore, exploit)
    score = taken.log() + noise.pick
    if limits.greedy:
        score = torch.where(rows.greedy[:, None], taken, score)
    pick = _first_argmax(score)[:, None]

    # q is one categorical draw; it takes both sides to know it, unless one of them is certain.
    q = torch.zeros_like(exploit)
    if limits.behaviour:
        known = decision.projected | (probability == 0.0) | (rows.depth == 1)
        greedy = rows.greedy[:, None]
        drawn_exploit = torch.where(greedy, _one_hot_argmax(exploit), exploit)
        drawn_explore = torch.where(greedy, _one_hot_argmax(explore), explore)
        q = drawn_exploit.lerp(drawn_explore, probability[:, None])
        q = torch.where(known[:, None], q, 0.0)

    return LedResult(
        token_ids=final.ids.gather(1, pick)[:, 0],
        explored=explored,
        explore_probability=probability,
        depth=torch.where(explored, star + 1, 1),
        p1=final.p1,
        entropy=final.entropy,
        candidate_ids=final.ids,
        layer_probs=p.float(),
        behaviour_probs=q.float(),
        behaviour_logprob=q.gather(1, pick)[:, 0].log().float(),
        projected_rows=projected_rows,
    )


def merge_partials(gathered: Tensor) -> tuple[Tensor, Tensor]:
    """Fold ranks, in rank order.

    Args:
        gathered: [R, M, K + 2] fp32, each row (max, sumexp, K candidate logits) from
            `latent_partials`.

    Returns:
        Logsumexp [M] float64 and candidate logits [M, K] fp32. A row that no rank projected has
        logsumexp -inf.
    """
    peak, total, logits = gathered[0, :, 0].double(), gathered[0, :, 1].double(), gathered[0, :, 2:]
    for rank in gathered[1:]:
        rank_peak = rank[:, 0].double()
        top = peak.maximum(rank_peak)
        total = total * _scale(peak, top) + rank[:, 1].double() * _scale(rank_peak, top)
        peak, logits = top, logits + rank[:, 2:]
    return peak + total.log(), logits


def _scale(peak: Tensor, top: Tensor) -> Tensor:
    """exp(peak - top), and 0 where nothing has been seen (peak = -inf)."""
    return torch.where(peak == -torch.inf, 0.0, (peak - top).exp())


def _normalized(p: Tensor) -> Tensor:
    """p / sum over the last dimension; zeros stay zeros."""
    total = p.sum(-1, keepdim=True)
    return p / torch.where(total == 0.0, 1.0, total)


def _first_argmax(x: Tensor) -> Tensor:
    """Index of the first maximum along dim 1 (torch.argmax promises no order among equals); 0 if a
    row holds NaN, which equals nothing."""
    n = x.shape[1]
    index = torch.arange(n, device=x.device)
    return torch.where(x == x.amax(1, keepdim=True), index, n).amin(1) % n


def _one_hot_argmax(probs: Tensor) -> Tensor:
    index = torch.arange(probs.shape[1], device=probs.device)
    return (index == _first_argmax(probs)[:, None]).double()
