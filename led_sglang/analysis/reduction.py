"""One layer's hidden states to entropy and top tokens, streamed over the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from led_sglang.kernels.eager.latent_lse import matmul_fp32

# Elements of the largest temporary, [tokens, columns] in float32: 64 MiB.
_TEMPORARY_ELEMENTS = 2**24
_COLUMNS = 16384
# Below every logit, but finite: -inf would give 0 * inf before the first columns are seen.
_LOWEST = -1e30


@dataclass(frozen=True)
class Head:
    """The LM head and what a family does to its logits: z = softcap(scale * (W h + bias)).

    weight: [V, H], any float dtype; bias: [V] or None.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden: Tensor, begin: int = 0, end: int | None = None) -> Tensor:
        """Columns [begin, end) of z for hidden [N, H]: [N, end - begin] fp32, accumulated in
        fp32."""
        z = matmul_fp32(hidden, self.weight[begin:end])
        if self.bias is not None:
            z = z + self.bias[begin:end].float()
        if self.scale != 1.0:
            z = z * self.scale
        if self.softcap is not None:
            z = self.softcap * torch.tanh(z / self.softcap)
        return z


def entropy_and_top(
    hidden: Tensor, head: Head, temperature: float, top: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Entropy of softmax(z / T) over the vocabulary, its largest value, the ids of its largest.

    Args:
        hidden: [N, H], any float dtype.
        head: gives z.
        temperature: T > 0.
        top: how many ids, at most V.

    Returns:
        Entropies [N] float64 in nats, p1 [N] float64, and ids [N, top] int64 by falling logit
        (between equal logits the order is left to torch.topk). No temporary has more than 2^24
        elements, whatever N and V are, unless a single row has.
    """
    vocab = head.weight.shape[0]
    columns = min(_COLUMNS, vocab)
    rows = max(1, _TEMPORARY_ELEMENTS // columns)
    parts = [
        _reduce_rows(hidden[start : start + rows], head, temperature, top, columns)
        for start in range(0, hidden.shape[0], rows)
    ]
    entropies, largest, ids = zip(*parts, strict=True)
    return torch.cat(entropies), torch.cat(largest), torch.cat(ids)


def _reduce_rows(
    hidden: Tensor, head: Head, temperature: float, top: int, columns: int
) -> tuple[Tensor, Tensor, Tensor]:
    """With m the largest z / T so far: s = sum exp(z / T - m), t = sum exp(..) (z / T - m), so
    H = log s - t / s and p1 = 1 / s. The sums are float64: a confident layer's entropy is a small
    difference."""
    n = hidden.shape[0]
    peak = torch.full((n,), _LOWEST, dtype=torch.float64, device=hidden.device)
    total, weighted = torch.zeros_like(peak), torch.zeros_like(peak)
    best = torch.empty(n, 0, device=hidden.device)
    ids = torch.empty(n, 0, dtype=torch.int64, device=hidden.device)
    for begin in range(0, head.weight.shape[0], columns):
        z = head.logits(hidden, begin, begin + columns)
        largest, where = z.topk(min(top, z.shape[1]), dim=1)
        best, order = torch.cat([best, largest], dim=1).topk(
            min(top, best.shape[1] + largest.shape[1]), dim=1
        )
        ids = torch.cat([ids, where + begin], dim=1).gather(1, order)

        z = z / temperature
        higher = peak.maximum(z.amax(1).double())
        shrink, step = (peak - higher).exp(), peak - higher
        # float32 is enough for the difference: the maximum is one of its values
        z -= higher.float()[:, None]
        weights = z.exp()
        weighted = shrink * (weighted + step * total)
        weighted += weights.mul(z).sum(1, dtype=torch.float64)
        total = shrink * total + weights.sum(1, dtype=torch.float64)
        peak = higher
    return total.log() - weighted / total, 1.0 / total, ids
