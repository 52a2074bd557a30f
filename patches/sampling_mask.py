"""`return_sampling_mask`: the set that a token was drawn from, where a method states its q."""

from __future__ import annotations

from typing import Any

from sglang.srt.layers.logits_processor import SamplingMaskStatus
from torch import Tensor
from torch.nn.functional import pad

from led_sglang.methods.base import Behaviour


def fill_sampling_mask(
    output: Any, rows: Tensor, support: Tensor | None, owned: Tensor, behaviour: Behaviour
) -> None:
    """Write q over the engine's mask in the rows that a method owns, without a wait.

    The engine has built the mask of its own draw, in which the method's token may lack. As there,
    tokens are in descending order of probability, and at temperature 0 the only one has log 1.

    Args:
        output: SGLang's `SamplingMaskOutput` of the R rows that asked; changed.
        rows: [R] int64, their places in the batch.
        support: [S] int64, which of the R want the log-probabilities of the whole set.
        owned: [B] bool.
        behaviour: of the step.
    """
    mine = owned[rows]
    q, order = behaviour.probs[rows].sort(dim=1, descending=True, stable=True)
    ids = behaviour.ids[rows].gather(1, order).to(output.token_ids.dtype)
    width = max(q.shape[1], output.token_ids.shape[1])
    wide = mine[:, None]
    output.token_ids = _chosen(output.token_ids, ids, wide, width)
    output.lengths = (q > 0.0).sum(1).to(output.lengths.dtype).where(mine, output.lengths)
    log_q = behaviour.logprobs[rows].to(output.selected_logprobs.dtype)
    output.selected_logprobs = log_q.where(mine, output.selected_logprobs)
    output.statuses = output.statuses.masked_fill(mine, int(SamplingMaskStatus.OK))
    if support is not None:
        logs = q[support].log().to(output.support_logprobs.dtype)
        output.support_logprobs = _chosen(output.support_logprobs, logs, wide[support], width)


def _chosen(theirs: Tensor, ours: Tensor, mine: Tensor, width: int) -> Tensor:
    """[n, width]: the rows of `ours` where `mine` [n, 1], the others' elsewhere."""
    return _widened(ours, width).where(mine, _widened(theirs, width))


def _widened(values: Tensor, width: int) -> Tensor:
    """With columns that no length counts."""
    return pad(values, (0, width - values.shape[1]))
