"""Float64 oracle of DoLa for one row: its formulas, one after the other (docs/method.md#dola)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

DIVERGENCES = ("hf", "jensen-shannon")


@dataclass(frozen=True)
class DolaReference:
    """Every quantity of one step, float64."""

    divergences: Tensor  # [J]
    chosen: int  # index into the candidates
    scores: Tensor  # [V], -inf outside the plausible tokens


def dola_reference(
    final_logits: Tensor,
    early_hidden: Tensor,
    head: Tensor,
    *,
    relative_top: float = 0.1,
    divergence: str = "hf",
) -> DolaReference:
    """DoLa's scores for one row.

    Args:
        final_logits: [V], the model's own.
        early_hidden: [J, H] residual streams of the candidate layers, earliest first.
        head: [V, H] LM head.
        relative_top: share of the largest probability below which a token is implausible.
        divergence: "hf" (Hugging Face's formula) or "jensen-shannon".
    """
    log_l = final_logits.double().log_softmax(0)
    log_j = (early_hidden.double() @ head.double().T).log_softmax(1)
    p_l, p_j = log_l.exp(), log_j.exp()
    mean = (p_l + p_j) / 2
    entropy_term = torch.xlogy(mean, mean)
    if divergence == "hf":
        # mean over V of 1/2 M (log M - log p_L) + 1/2 M (log M - log p_j)
        divergences = (entropy_term - mean * (log_l + log_j) / 2).mean(1)
    elif divergence == "jensen-shannon":
        # sum over V of 1/2 p_L (log p_L - log M) + 1/2 p_j (log p_j - log M)
        divergences = ((p_l * log_l + p_j * log_j) / 2 - entropy_term).sum(1)
    else:
        raise ValueError(f"divergence is {divergence!r}: choose one of {', '.join(DIVERGENCES)}")
    chosen = int(divergences.argmax())
    plausible = log_l >= log_l.max() + math.log(relative_top)
    scores = torch.where(plausible, log_l - log_j[chosen], -torch.inf)
    return DolaReference(divergences, chosen, scores)
