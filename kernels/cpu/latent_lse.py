"""Exact logsumexp of latent rows on a CPU, compiled: of a small LM head, or of blocks of logits.

See docs/method.md#latent-posteriors.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..eager.latent_lse import OnlineSums
from ..types import LmHeadShard
from .jit import compiled, vectorised
from .posterior import sum_exp

# Elements of the largest head that `head_partials` multiplies: widened, it stays in a core's cache.
_LARGEST_HEAD = 2**17


@vectorised
def _widen_bf16(bits, out):
    for i in range(bits.shape[0]):
        out[i] = np.uint32(np.uint32(bits[i]) << np.uint32(16)).view(np.float32)


@vectorised
def _dot(x, w):
    total = np.float32(0.0)
    for i in range(x.shape[0]):
        total += x[i] * w[i]
    return total


@compiled
def head_partials(
    latents,  # [M, H] uint16, the bits of bf16
    temperature,  # [B] f32
    weight,  # [V, H] uint16, the bits of bf16
    request,  # [>= M] int64: row of the batch
    place,  # [>= M] int64: where the row goes in partials
    ids,  # [B, K] int64
    vocab_start,  # vocabulary id of the first column
    partials,  # out [n, K + 2] f32: max, sum of exp(z / T - max), candidate logits, all of z / T
):
    """Writes the places of these rows and no others."""
    columns, hidden = weight.shape
    wide = np.empty((columns, hidden), np.float32)
    for column in range(columns):
        _widen_bf16(weight[column], wide[column])
    x, z = np.empty(hidden, np.float32), np.empty(columns, np.float32)
    for row in range(latents.shape[0]):
        _widen_bf16(latents[row], x)
        top = np.float32(-np.inf)
        for column in range(columns):
            z[column] = _dot(x, wide[column])
            top = max(top, z[column])
        t = temperature[request[row]]
        out = partials[place[row]]
        out[0] = top / t
        out[1] = sum_exp(z, top, t)
        for i in range(ids.shape[1]):
            column = ids[request[row], i] - vocab_start
            out[2 + i] = 0.0
            if 0 <= column < columns:
                # float64: z / T is rounded only once, however far below the maximum it is.
                dot = 0.0
                for h in range(hidden):
                    dot += float(x[h]) * float(wide[column, h])
                out[2 + i] = dot / t


@compiled
def fold(
    z,  # [M, n] f32: logits of the next columns
    temperature,  # [M] f32
    peaks,  # in and out [M] f32: max of z so far
    totals,  # in and out [M] f64: sum of exp((z - max) / T) so far
):
    for row in range(z.shape[0]):
        t, top = temperature[row], peaks[row]
        for column in range(z.shape[1]):
            top = max(top, z[row, column])
        if top == -np.inf:
            continue
        if peaks[row] != -np.inf:
            totals[row] *= np.exp((float(peaks[row]) - float(top)) / float(t))
        totals[row] += sum_exp(z[row], top, t)
        peaks[row] = top


class CompiledSums(OnlineSums):
    """One call a block; sums are float64."""

    def __init__(self, temperature: Tensor) -> None:
        super().__init__(temperature)
        self._total = self._total.double()

    def add(self, at: slice, z: Tensor) -> None:
        part = self._temperature[at], self._peak[at], self._total[at]
        fold(z.contiguous().numpy(), *(rows.numpy() for rows in part))

    def result(self) -> tuple[Tensor, Tensor]:
        peak, total = super().result()
        return peak, total.float()


def is_small(head: LmHeadShard, hidden: Tensor) -> bool:
    """Whether `head_partials` multiplies this head: bf16 factors, nothing between z and logits."""
    weight = head.weight
    return (
        weight is not None
        and head.logit_scale is None
        and head.softcap is None
        and weight.numel() <= _LARGEST_HEAD
        and weight.dtype == hidden.dtype == torch.bfloat16
        and weight.is_contiguous()
    )
