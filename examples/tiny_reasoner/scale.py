"""The scale of the residual stream, which the model's own answers do not depend on.

All readers of the stream normalise it, so its scale is free: multiply by c all that writes to it
(the tied embeddings and two projections of each layer), divide the final norm's weight by c, for
the head is the embeddings, and every final logit stays (up to the norms' epsilon). The latents that
LED reads without a norm, W h^l, do change: by c squared. Adam at a high learning rate leaves a
stream twenty times as large as what the final norm makes of it, and latents sharper than the last
layer for that reason alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


@torch.no_grad()
def rescale(model: Any, sequences: Sequence[Sequence[int]]) -> float:
    """Choose the scale at which h^L is on average as large as the final norm makes it.

    Args:
        model: a Qwen3 with tied embeddings, changed in place.
        sequences: token ids to measure it on.

    Returns:
        What the stream was multiplied with.
    """
    body, taken = model.model, []
    hook = body.norm.register_forward_hook(
        lambda _, before, after: taken.append([_rms(before[0]), _rms(after)])
    )
    for ids in sequences:
        model(torch.tensor([ids], device=model.device))
    hook.remove()
    before, after = torch.tensor(taken).mean(0).tolist()
    scale = float((after / before) ** 0.5)
    body.embed_tokens.weight *= scale
    for layer in body.layers:
        layer.self_attn.o_proj.weight *= scale
        layer.mlp.down_proj.weight *= scale
    body.norm.weight /= scale
    return scale


def _rms(stream: torch.Tensor) -> float:
    return float(stream.double().square().mean().sqrt())
