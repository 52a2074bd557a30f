"""The CPU platform's operations for single models against float64, in the models' own types."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from led_sglang.patches.cpu import operations

ROWS, HIDDEN = 5, 48
TYPES = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)]
)


def draw(*shape: int, dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_near(found: Tensor, truth: Tensor, dtype: torch.dtype, tolerance: float) -> None:
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), truth, atol=tolerance, rtol=tolerance)


@TYPES
def test_shared_expert_is_gated_and_added(dtype: torch.dtype, tolerance: float) -> None:
    hidden, shared, output = (draw(ROWS, HIDDEN, dtype=dtype, seed=i) for i in range(3))
    gate = draw(HIDDEN, dtype=dtype, seed=3)
    weights = 1 / (1 + torch.exp(-(hidden.double() @ gate.double())))
    truth = output.double() + weights[:, None] * shared.double()
    operations.add_gated(hidden, gate, shared, output)
    assert_near(output, truth, dtype, tolerance)


@TYPES
@pytest.mark.parametrize("ranks", [1, 2])
def test_norms_over_the_heads_of_all_ranks(
    dtype: torch.dtype, tolerance: float, ranks: int
) -> None:
    """Each rank has its share of the heads; the sum of the means is what a reduction gives."""
    queries, keys = draw(ROWS, HIDDEN, dtype=dtype, seed=0), draw(ROWS, 16, dtype=dtype, seed=1)
    weights = draw(HIDDEN, dtype=dtype, seed=2), draw(16, dtype=dtype, seed=3)
    shares = [t.chunk(ranks, dim=-1) for t in (queries, keys, *weights)]
    means = [operations.mean_squares(q, k) for q, k in zip(*shares[:2], strict=True)]
    assert means[0].dtype == torch.float32
    assert len(means[0]) == 12  # 2 * 5 rows, padded to a multiple of four
    total = torch.stack(means).sum(0)
    normed = [
        operations.apply_norms(*parts, total, ranks, 1e-6) for parts in zip(*shares, strict=True)
    ]
    for whole, weight, parts in zip(
        (queries, keys), weights, zip(*normed, strict=True), strict=True
    ):
        exact = whole.double()
        truth = exact / (exact.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * weight.double()
        assert_near(torch.cat(parts, dim=-1), truth, dtype, tolerance)


@TYPES
def test_cap(dtype: torch.dtype, tolerance: float) -> None:
    logits = 20 * draw(ROWS, HIDDEN, dtype=dtype, seed=0)
    truth = 3 * torch.tanh(logits.double() / 3)
    assert operations.cap(logits, 3.0) is logits
    assert_near(logits, truth, dtype, tolerance)


@TYPES
def test_gate_with_its_heads_apart(dtype: torch.dtype, tolerance: float) -> None:
    x, gate = draw(ROWS, 48, dtype=dtype, seed=0), draw(ROWS, 3, 16, dtype=dtype, seed=1)
    truth = x.double() / (1 + torch.exp(-gate.double().flatten(1)))
    copied = operations.gate_in_place(x, gate, inplace=False)
    assert_near(copied, truth, dtype, tolerance)
    assert operations.gate_in_place(x, gate) is x
    assert_near(x, truth, dtype, tolerance)


@TYPES
@pytest.mark.parametrize(("scaled", "shift"), [(True, 1.0), (True, 0.0), (False, 1.0)])
def test_norm_of_gemma_4(dtype: torch.dtype, tolerance: float, scaled: bool, shift: float) -> None:
    """A router's norm has no scale of its own and carries the router's in its weight."""
    x, weight = draw(ROWS, HIDDEN, dtype=dtype, seed=0), draw(HIDDEN, dtype=dtype, seed=1)
    norm = SimpleNamespace(weight=weight, eps=1e-6, scale_shift=shift, with_scale=scaled)
    exact = x.double()
    normed = exact / (exact.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
    truth = normed * (weight.double() + (shift if scaled else 0.0))
    assert_near(operations.gemma4_norm(norm, x), truth, dtype, tolerance)


def test_a_name_that_is_gone_is_an_error() -> None:
    module = SimpleNamespace(kept=1)
    operations.replace(module, "kept", 2)
    assert module.kept == 2
    with pytest.raises(AttributeError, match="gone"):
        operations.replace(module, "gone", 2)
