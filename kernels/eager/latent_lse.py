"""Exact logsumexp over the vocabulary, streamed, and candidate logits, in plain torch.

See docs/method.md#latent-posteriors.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ..types import LmHeadShard

# Elements of the largest temporary that is not a slice of the weight: 64 MB of float64.
_TEMPORARY_ELEMENTS = 2**23
# Elements of the weight that are upcast at once: 4 MB of float32, which stay in a CPU's cache.
_UPCAST_ELEMENTS = 2**20


def latent_partials(
    latent_rows: Tensor,
    temperature: Tensor,
    candidate_ids: Tensor,
    head: LmHeadShard,
    *,
    chunk: int = 4096,
    sums: OnlineSums | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """This shard's share of the latent posteriors.

    Args:
        latent_rows: [M, H], any float dtype.
        temperature: [M] f32, > 0.
        candidate_ids: [M, K] int64 vocabulary ids.
        head: the shard.
        chunk: columns of the weight handled at once, so the largest temporaries are [M, chunk] and
            [chunk, H]; with `head.project` rows are taken in chunks instead.
        sums: what adds up, at these temperatures; torch unless given.

    Returns:
        fp32, with z the shard's logits of a row: max over z / T [M]; sum of exp(z / T - max) [M];
        z / T of the candidates this shard owns, 0 for the others [M, K]. A shard without columns
        gives (-inf, 0, 0).
    """
    m, k = candidate_ids.shape
    if m == 0 or head.valid == 0:
        nothing = torch.full_like(temperature, -torch.inf)
        return nothing, torch.zeros_like(temperature), temperature.new_zeros(m, k)
    sums = OnlineSums(temperature) if sums is None else sums
    if head.project is not None:
        logits = temperature.new_empty(m, k)
        for at, _, z in logits_blocks(latent_rows, head, chunk):
            logits[at] = z.gather(1, _local_ids(candidate_ids[at], head))
            sums.add(at, z)
    else:
        for at, _, z in logits_blocks(latent_rows, head, chunk):
            sums.add(at, z)
        logits = _candidate_logits(latent_rows, candidate_ids, head)
    peak, total = sums.result()
    local = candidate_ids - head.vocab_start
    owned = (local >= 0) & (local < head.valid)
    return peak, total, torch.where(owned, logits / temperature[:, None], 0.0).float()


def _scale(peak: Tensor, top: Tensor, temperature: Tensor) -> Tensor:
    """exp((peak - top) / T), and 0 where nothing has been seen yet (peak = -inf)."""
    return torch.where(peak == -torch.inf, 0.0, ((peak - top) / temperature).exp())


def shard_sums(rows: Tensor, head: LmHeadShard, chunk: int) -> tuple[Tensor, Tensor]:
    """The first two of `latent_partials` at temperature 1: max and sumexp of z, [M] fp32 each."""
    sums = OnlineSums(torch.ones(len(rows), device=rows.device))
    for at, _, z in logits_blocks(rows, head, chunk):
        sums.add(at, z)
    return sums.result()


def logits_blocks(
    rows: Tensor, head: LmHeadShard, chunk: int
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Logits of rows [M, H] in blocks that cover this shard.

    A head with a weight gives all rows and at most `chunk` columns at a time, one with `project`
    some rows and all columns.

    Yields:
        Which rows, which of the shard's columns, and z fp32, which the caller may overwrite.
    """
    if head.project is not None:
        step = max(1, _TEMPORARY_ELEMENTS // max(head.valid, 1))
        for start in range(0, len(rows), step):
            at = slice(start, min(start + step, len(rows)))
            z = head.project(rows[at])[:, : head.valid].float()
            yield at, slice(0, head.valid), _shape_logits(z, head)
        return
    assert head.weight is not None
    for block, z in _products_fp32(rows, head.weight[: head.valid], chunk):
        yield slice(0, len(rows)), block, _shape_logits(z, head)


def _products_fp32(x: Tensor, weight: Tensor, chunk: int) -> Iterator[tuple[slice, Tensor]]:
    """Columns of x weight^T, at most `chunk` at a time, accumulated and returned in fp32."""
    columns, hidden = weight.shape
    if weight.dtype == torch.float32 or _as_they_are(x, weight):
        for start in range(0, columns, chunk):
            block = slice(start, min(start + chunk, columns))
            yield block, matmul_fp32(x, weight[block])
        return
    # One buffer for all blocks: fresh memory for each costs several times the product.
    step = max(1, min(chunk, columns, _UPCAST_ELEMENTS // hidden))
    upcast = x.new_empty(step, hidden, dtype=torch.float32)
    for start in range(0, columns, chunk):
        block = slice(start, min(start + chunk, columns))
        parts = [matmul_fp32(x, part, upcast) for part in weight[block].split(step)]
        yield block, torch.cat(parts, dim=1)


class OnlineSums:
    """(max, sumexp) of z / T per row [M], folded block by block."""

    def __init__(self, temperature: Tensor) -> None:
        self._temperature = temperature
        self._peak = torch.full_like(temperature, -torch.inf)
        self._total = torch.zeros_like(temperature)

    def add(self, at: slice, z: Tensor) -> None:
        """Fold z [m, columns] fp32 of the rows `at`; may overwrite z."""
        temperature, peak = self._temperature[at], self._peak[at]
        # The maximum is taken before the division: z - max is exact where it matters.
        top = peak.maximum(z.amax(1))
        shift = torch.where(top == -torch.inf, 0.0, top)[:, None]
        part = z.sub_(shift).div_(temperature[:, None]).exp_().sum(1)
        self._total[at] = self._total[at] * _scale(peak, top, temperature) + part
        self._peak[at] = top

    def result(self) -> tuple[Tensor, Tensor]:
        """max [M] and sumexp [M], f32."""
        return self._peak / self._temperature, self._total


def matmul_fp32(x: Tensor, weight: Tensor, upcast: Tensor | None = None) -> Tensor:
    """x weight^T, accumulated and returned in fp32.

    Tensor cores take half types as they are; a CPU gets them upcast.

    Args:
        x: [M, H].
        weight: [n, H].
        upcast: [>= n, H] fp32 memory for the upcast weight; fresh memory unless given.
    """
    if _as_they_are(x, weight):
        return torch.mm(x, weight.t(), out_dtype=torch.float32)
    wide = weight.float() if upcast is None else upcast[: len(weight)].copy_(weight)
    with _bf16_products(x.dtype == weight.dtype == torch.bfloat16):
        return x.float() @ wide.t()


@contextmanager
def _bf16_products(exact: bool) -> Iterator[None]:
    """On a CPU, take fp32 factors as bf16 and sum in fp32: nothing is lost where that is what they
    were, and processors with bf16 instructions multiply faster."""
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    if exact:
        matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


def _as_they_are(x: Tensor, weight: Tensor) -> bool:
    return x.is_cuda and x.dtype == weight.dtype and x.dtype in (torch.bfloat16, torch.float16)


def _shape_logits(z: Tensor, head: LmHeadShard) -> Tensor:
    if head.logit_scale is not None:
        z = z * head.logit_scale
    if head.softcap is not None:
        z = head.softcap * torch.tanh(z / head.softcap)
    return z


def _local_ids(candidate_ids: Tensor, head: LmHeadShard) -> Tensor:
    """Columns of this shard; ids that live elsewhere are clamped to some valid column."""
    return (candidate_ids - head.vocab_start).clamp(0, head.valid - 1)


def _candidate_logits(latent_rows: Tensor, candidate_ids: Tensor, head: LmHeadShard) -> Tensor:
    """z [M, K] by one dot product per candidate, over gathered rows of the weight. K is small, so
    float64 is affordable: z / T is then rounded only once, however far below the maximum it is."""
    assert head.weight is not None
    k = candidate_ids.shape[1]
    step = max(1, _TEMPORARY_ELEMENTS // (k * latent_rows.shape[1]))
    parts = []
    for start in range(0, len(latent_rows), step):
        part = slice(start, start + step)
        weight = head.weight[_local_ids(candidate_ids[part], head)].double()
        parts.append(torch.bmm(weight, latent_rows[part].double()[:, :, None])[:, :, 0])
    return _shape_logits(torch.cat(parts), head)
