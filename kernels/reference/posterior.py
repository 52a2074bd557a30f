"""The oracle of many latent posteriors at once (docs/method.md#latent-posteriors)."""

from __future__ import annotations

import torch
from torch import Tensor

# Columns of the LM head that are raised to float64 at once.
_COLUMNS = 16384


def latent_posteriors(hidden: Tensor, temperature: float, ids: Tensor, weight: Tensor) -> Tensor:
    """p(x_i) = softmax(W h / T) at each row's candidates, [M, K] float64.

    Args:
        hidden: [M, H], any float dtype.
        ids: [M, K] int64.
        weight: [V, H], any float dtype.
    """
    wide = hidden.double() / temperature
    lse = wide.new_full((len(wide),), -torch.inf)
    for columns in weight.split(_COLUMNS):
        lse = torch.logaddexp(lse, torch.logsumexp(wide @ columns.double().t(), 1))
    candidates = torch.einsum("mkh,mh->mk", weight[ids].double(), wide)
    return torch.exp(candidates - lse[:, None])
