"""latent_partials and merge_partials: exact logsumexp, bounded memory, shards that add up."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from test_kernel_posterior import LargestOutput
from torch import Tensor

from led_sglang.kernels import LmHeadShard
from led_sglang.kernels.eager.combine import merge_partials
from led_sglang.kernels.eager.latent_lse import latent_partials

M, V, H, K = 7, 1009, 33, 8


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """latent rows [M, H], temperature [M], candidate ids [M, K], weight [V, H]"""
    generator = torch.Generator().manual_seed(0)
    temperature = torch.tensor([0.05, 0.6, 2.0, 1.0, 0.6, 0.3, 0.05])
    rows = torch.randn(M, H, generator=generator) * 3 * temperature[:, None]
    weight = torch.randn(V, H, generator=generator) / H**0.5
    ids = torch.randint(0, V, (M, K), generator=generator)
    ids[:, 0], ids[:, 1] = 0, V - 1
    return rows.to(dtype), temperature, ids, weight.to(dtype)


def packed(shard: LmHeadShard, chunk: int = 4096, dtype: torch.dtype = torch.float32) -> Tensor:
    rows, temperature, ids, _ = inputs(dtype)
    peak, total, logits = latent_partials(rows, temperature, ids, shard, chunk=chunk)
    assert peak.dtype == total.dtype == logits.dtype == torch.float32
    return torch.cat([peak[:, None], total[:, None], logits], dim=1)


def exact(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    rows, temperature, ids, weight = inputs(dtype)
    z = rows.double() @ weight.double().t() / temperature.double()[:, None]
    return z.logsumexp(1), z.gather(1, ids)


def assert_exact(gathered: Tensor, dtype: torch.dtype = torch.float32) -> None:
    lse, logits = merge_partials(gathered)
    expected_lse, expected_logits = exact(dtype)
    torch.testing.assert_close(lse, expected_lse, rtol=0, atol=5e-6)
    torch.testing.assert_close(logits.double(), expected_logits, rtol=0, atol=5e-6)


# 1 and 100 leave a ragged tail, 1009 is one exact chunk.
@pytest.mark.parametrize("chunk", [1, 100, 1009, 4096])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_streamed_logsumexp_is_exact(dtype: torch.dtype, chunk: int) -> None:
    weight = inputs(dtype)[3]
    assert_exact(packed(LmHeadShard(weight, 0, V), chunk, dtype)[None], dtype)


def shards_of(weight: Tensor, bounds: list[int], padding: int, project: bool) -> list[LmHeadShard]:
    """Vocabulary shards; the padded rows hold NaN, which would poison whatever read them."""
    shards = []
    for start, end in itertools.pairwise(bounds):
        rows = torch.cat([weight[start:end], torch.full((padding, H), torch.nan)])
        if project:
            shards.append(
                LmHeadShard(None, start, end - start, project=lambda x, w=rows: x @ w.t())
            )
        else:
            shards.append(LmHeadShard(rows, start, end - start))
    return shards


@pytest.mark.parametrize("project", [False, True])
@pytest.mark.parametrize("padding", [0, 15])
@pytest.mark.parametrize(
    "bounds", [[0, 505, V], [0, 300, 600, 1000, V], [0, 1, V, V, V], [0, 0, 700, 700, V]]
)
def test_shards_fold_to_the_whole(bounds: list[int], padding: int, project: bool) -> None:
    shards = shards_of(inputs()[3], bounds, padding, project)
    assert_exact(torch.stack([packed(s) for s in shards]))


def test_only_the_owner_reports_a_candidate() -> None:
    low, high = (packed(s)[:, 2:] for s in shards_of(inputs()[3], [0, 505, V], 3, False))
    ids = inputs()[2]
    assert torch.equal(low == 0.0, ids >= 505)
    assert torch.equal(high == 0.0, ids < 505)


@pytest.mark.parametrize("weight_rows", [0, 4])
def test_empty_shard_contributes_nothing(weight_rows: int) -> None:
    result = packed(LmHeadShard(torch.full((weight_rows, H), torch.nan), V, 0))
    assert torch.equal(result, torch.tensor([-math.inf] + [0.0] * (K + 1)).expand(M, K + 2))


def test_no_rows_are_no_work() -> None:
    rows, temperature, ids, weight = inputs()
    for head in (
        LmHeadShard(weight, 0, V),
        LmHeadShard(None, 0, V, project=lambda x: x @ weight.t()),
    ):
        result = latent_partials(rows[:0], temperature[:0], ids[:0], head)
        assert [x.shape for x in result] == [(0,), (0,), (0, K)]


def test_row_nobody_projected_has_no_mass() -> None:
    lse, logits = merge_partials(torch.tensor([[[-math.inf, 0.0, 0.0]]] * 2))
    assert lse.tolist() == [-math.inf]
    assert logits.tolist() == [[0.0]]


def test_projecting_head_may_mask_columns() -> None:
    weight = inputs()[3]

    def project(x: Tensor) -> Tensor:
        z = x @ weight.t()
        z[:, 10:] = -math.inf
        return z

    rows, temperature, ids, _ = inputs()
    ids = ids % 20
    peak, total, logits = latent_partials(
        rows, temperature, ids, LmHeadShard(None, 0, V, project=project)
    )
    z = rows.double() @ weight[:10].double().t() / temperature.double()[:, None]
    lse = peak.double() + total.double().log()
    torch.testing.assert_close(lse, z.logsumexp(1), rtol=0, atol=5e-6)
    assert torch.equal(logits == -math.inf, ids >= 10)


def test_shard_masked_by_its_head_has_no_mass() -> None:
    weight = inputs()[3]
    low = LmHeadShard(None, 0, 505, project=lambda x: torch.full((len(x), 505), -math.inf))
    high = shards_of(weight, [0, 505, V], 0, False)[1]
    gathered = torch.stack([packed(low), packed(high)])
    assert (gathered[0, :, 0] == -math.inf).all()
    assert (gathered[0, :, 1] == 0.0).all()
    lse, _ = merge_partials(gathered)
    alone, _ = merge_partials(gathered[1:])
    assert torch.equal(lse, alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_never_materialises_rows_by_vocabulary(dtype: torch.dtype) -> None:
    m, vocab, hidden = 96, 4099, 16
    rows = torch.randn(m, hidden).to(dtype)
    weight = torch.randn(vocab, hidden).to(dtype)
    ids = torch.randint(0, vocab, (m, K))
    with LargestOutput() as seen:
        latent_partials(rows, torch.ones(m), ids, LmHeadShard(weight, 0, vocab), chunk=256)
    assert 0 < seen.largest <= 4 * m * 256
    with LargestOutput() as seen:
        rows.float() @ weight.float().t()
    assert seen.largest == 4 * m * vocab


def test_projecting_head_sees_bounded_row_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("led_sglang.kernels.eager.latent_lse._TEMPORARY_ELEMENTS", 3 * V)
    weight = inputs()[3]
    seen: list[int] = []

    def project(x: Tensor) -> Tensor:
        seen.append(len(x))
        return x @ weight.t()

    assert_exact(packed(LmHeadShard(None, 0, V, project=project))[None])
    assert seen == [3, 3, 1]


def test_shard_wants_exactly_one_head() -> None:
    weight = inputs()[3]
    with pytest.raises(AssertionError, match="exactly one"):
        LmHeadShard(None, 0, V)
    with pytest.raises(AssertionError, match="exactly one"):
        LmHeadShard(weight, 0, V, project=lambda x: x)
    with pytest.raises(AssertionError, match="fewer than the 1010"):
        LmHeadShard(weight, 0, V + 1)
