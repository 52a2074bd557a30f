"""Requests with a seed that the engine samples: its filters, our noise, and no row more."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from led_sglang.kernels import seeded_noise
from led_sglang.methods import regular
from led_sglang.methods.led.params import LedParams
from led_sglang.methods.registry import METHODS
from led_sglang.methods.regular import SeededRows
from led_sglang.methods.rows import Layout, Row, RowTable

V = 501
FILTERS: tuple[dict[str, Any], ...] = (
    {},
    {"top_p": 0.9},
    {"top_k": 20, "top_p": 0.95},
    {"top_k": 5, "min_p": 0.2},
    {"top_p": 0.5, "min_p": 0.1},
    {"min_p": 0.05},
    {"top_k": 1},
    {"top_k": V + 7},
    {"top_p": 1e-6},
)
# Two of three rows have a seed; one row is the engine's alone.
ROWS = [
    Row(sampler="dola", seed=100 + i if i % 3 else None, **FILTERS[i // 2 % len(FILTERS)])
    for i in range(40)
] + [Row()]


def table_of(rows: list[Row], monkeypatch: pytest.MonkeyPatch, device: str = "cpu") -> RowTable:
    # What the method's own columns hold is of no interest here.
    monkeypatch.setattr(Layout, "pack", lambda layout, row: _common(layout, row))
    return RowTable.build(rows, Layout.of(METHODS), device, pin=False)


def _common(layout: Layout, row: Row) -> list[float]:
    packed = list(layout.neutral)
    top_k = row.top_k if row.top_k > 0 else 2**31 - 1
    packed[1:6] = [0.0, row.seed is not None, top_k, row.top_p, row.min_p]
    return packed


def by_sorting(probs: Tensor, row: Row, position: int) -> int:
    """One row's token as the definition has it: sort, then filter, then the largest score."""
    kept, ids = probs.sort(descending=True, stable=True)
    rank = torch.arange(V)
    out = kept.cumsum(0) - kept > row.top_p
    if row.top_k > 0:
        out |= rank >= row.top_k
    out |= kept < kept[0] * row.min_p
    assert row.seed is not None
    noise = seeded_noise(torch.tensor([row.seed]), torch.tensor([position]), ids[None]).pick[0]
    return int(ids[(kept.double().log() + noise).masked_fill(out, -torch.inf).argmax()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunk", [1, 4 * V, 2**23])
def test_tokens_are_those_of_sorted_and_filtered_posteriors(
    dtype: torch.dtype, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits of bfloat16 tie often."""
    monkeypatch.setattr(regular, "_CHUNK", chunk)
    torch.manual_seed(3)
    probs = (torch.randn(len(ROWS), V) * 3).to(dtype).float().softmax(1)
    before = probs.clone()
    positions = torch.arange(len(ROWS)) * 5
    engine = torch.full((len(ROWS),), V - 1, dtype=torch.int32)
    seeded = SeededRows.of(table_of(ROWS, monkeypatch))
    assert seeded is not None
    tokens = seeded.pick(probs, positions, engine, None)
    assert tokens.dtype == engine.dtype
    for i, row in enumerate(ROWS):
        drawn = int(engine[i]) if row.seed is None else by_sorting(probs[i], row, int(positions[i]))
        assert int(tokens[i]) == drawn, (i, row)
    assert torch.equal(probs, before)


def test_a_batch_without_seeds_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Row(sampler="dola"), Row()]
    assert SeededRows.of(table_of(rows, monkeypatch)) is None


@pytest.mark.parametrize(
    ("params", "concerned"),
    [
        (LedParams(), True),
        (LedParams(think_only=False), False),
        (LedParams(preset="release"), False),
    ],
    ids=["thinks for a while", "thinks always", "samples the response too"],
)
def test_rows_whose_method_picks_every_token_are_left_out(
    params: LedParams, concerned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [Row(sampler="led", params=params, seed=3), Row()]
    assert (SeededRows.of(table_of(rows, monkeypatch)) is not None) == concerned
    rows.append(Row(sampler="dola", seed=4, top_p=0.9))
    seeded = SeededRows.of(table_of(rows, monkeypatch))
    assert seeded is not None
    assert seeded.whole.tolist() == ([0] if concerned else [])
    assert seeded.nucleus.tolist() == [2]


class NoSort(TorchDispatchMode):
    """Refuses sorts, and arithmetic on the posteriors of rows that are not concerned."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert "sort" not in func.__name__, func
        output = func(*args, **(kwargs or {}))
        for made in (x for x in tree_leaves(output) if isinstance(x, Tensor)):
            assert made.numel() < len(ROWS) * V, f"{func} of every row"
        return output


def test_on_a_gpu_nothing_is_sorted_and_other_rows_are_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def top_p(probs: Tensor, limits: Tensor) -> Tensor:
        """SGLang's kernel renormalises, too."""
        asked.append((probs.shape, limits.shape))
        return probs * 2

    with FakeTensorMode():
        seeded = SeededRows.of(table_of(ROWS, monkeypatch, "cuda"))
        assert seeded is not None
        probs = torch.zeros(len(ROWS), V, device="cuda")
        positions = torch.zeros(len(ROWS), dtype=torch.int64, device="cuda")
        with NoSort():
            tokens = seeded.pick(probs, positions, positions, top_p)
    assert tokens.shape == (len(ROWS),)
    nucleus = [r for r in ROWS if r.seed and r.top_k <= 0 and r.top_p < 1]
    assert asked == [((len(nucleus), V), (len(nucleus),))]
