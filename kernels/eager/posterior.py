"""The final layer's posterior and its candidates, in plain torch (docs/method.md#candidates)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..types import FinalPosterior, LedLimits, LedRows

# Bound on the temporaries of final_posterior, and what a logit costs there at its worst moment.
_TEMPORARY_BYTES = 64 * 2**20
_BYTES_PER_LOGIT = 40


def final_posterior(logits: Tensor, rows: LedRows, limits: LedLimits) -> FinalPosterior:
    """See `Step.final_posterior`: K = min(limits.candidates, V) candidates a row."""
    batch, vocab = logits.shape
    k = min(limits.candidates, vocab)
    step = max(1, _TEMPORARY_BYTES // (_BYTES_PER_LOGIT * vocab))
    parts = []
    for start in range(0, max(batch, 1), step):
        chunk = logits[start : start + step].float()
        temperature = rows.temperature[start : start + step, None]
        parts.append(_posterior_chunk(chunk, temperature, k, limits.entropy))
    ids, logprobs, p1, entropy = (torch.cat(column) for column in zip(*parts, strict=True))

    is_candidate = torch.arange(k, device=logits.device) < rows.candidates[:, None]
    if limits.nucleus:
        # A nucleus of 1 drops nothing, although p1 may round to 1.
        mass = logprobs.double().exp()
        mass_before = mass.cumsum(1) - mass
        top_p = rows.candidate_top_p[:, None]
        is_candidate &= (mass_before < top_p) | (top_p >= 1.0)
    logprobs = torch.where(is_candidate, logprobs, -torch.inf)
    return FinalPosterior(ids=ids, logprobs=logprobs, p1=p1, entropy=entropy)


def _posterior_chunk(
    logits: Tensor, temperature: Tensor, k: int, want_entropy: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """ids, logprobs [b, k], p1, entropy [b] of fp32 logits [b, V] at temperature [b, 1]."""
    top = logits.amax(1, keepdim=True)
    # The clamp keeps 0 * log 0 at 0 in the entropy.
    scaled = ((logits - top) / temperature).clamp_(min=-1e30)
    weights = scaled.exp()
    total = weights.sum(1, keepdim=True)
    log_total = total.log()
    # The likeliest token has weight 1. A row without any possible token counts as certain.
    p1 = torch.where(top == -torch.inf, 1.0, 1.0 / total)
    entropy = torch.zeros_like(total)
    if want_entropy:
        weighted = weights.mul_(scaled).sum(1, keepdim=True)
        entropy = torch.where(top == -torch.inf, 0.0, log_total - weighted / total)
    del scaled, weights

    ids = largest_ids(logits, k)
    z = logits.gather(1, ids)
    logprobs = torch.where(z == -torch.inf, -torch.inf, (z - top) / temperature - log_total)
    return ids, logprobs, p1[:, 0], entropy[:, 0]


def largest_ids(logits: Tensor, k: int) -> Tensor:
    """Ids [b, k] of the k largest fp32 logits [b, V], descending, ties to the lowest id.

    torch.topk promises no order among equals, so it ranks unique int64 keys: the logit's bits, made
    to order like integers, above the id counted from the end.
    """
    vocab = logits.shape[1]
    bits = (logits + 0.0).view(torch.int32)  # + 0.0 makes -0.0 and 0.0 the same bits
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    keys = ordered.long()
    del bits, ordered
    keys <<= 32
    keys |= torch.arange(vocab - 1, -1, -1, device=logits.device)
    return (vocab - 1) - (keys.topk(k, dim=1).values & 0xFFFFFFFF)
