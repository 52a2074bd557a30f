"""Batched attention of the CPU platform against a float64 loop over requests and queries."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from drafts import Draft
from torch import Tensor

from led_sglang.patches.cpu.attention import PADDED_TO, BatchedTorchAttention
from led_sglang.patches.cpu.drafting import AttentionOfStep

SLOTS = 4000
LENGTHS = [1, 2, 63, 64, 65, 130, 300]


def case(
    dtype: torch.dtype, heads: int, kv_heads: int, head_size: int, value_size: int = 16
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Caches, token table and requests; every request's slots are shuffled."""
    torch.manual_seed(heads)
    keys = torch.randn(SLOTS, kv_heads, head_size, dtype=dtype)
    values = torch.randn(SLOTS, kv_heads, value_size, dtype=dtype)
    table = torch.randint(SLOTS, (16, 512), dtype=torch.int32)
    return keys, values, table, torch.randperm(16)[: len(LENGTHS)]


def reference(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    position: int,
    scale: float,
    window: int | None,
    sinks: Tensor | None,
) -> Tensor:
    """[heads, value_size] float64 of the query at `position` of one request."""
    first = 0 if window is None else max(0, position - window)
    repeated = query.shape[0] // keys.shape[1]
    k = keys[first : position + 1].double().repeat_interleave(repeated, 1)
    v = values[first : position + 1].double().repeat_interleave(repeated, 1)
    scores = torch.einsum("hd,lhd->hl", query.double(), k) * scale
    if sinks is None:
        return torch.einsum("hl,lhd->hd", scores.softmax(-1), v)
    shares = torch.cat([scores, sinks.double()[:, None]], 1).softmax(-1)[:, :-1]
    return torch.einsum("hl,lhd->hd", shares, v)


def backend(
    sinks: Tensor | None = None, kind: type[BatchedTorchAttention] = BatchedTorchAttention
) -> Any:
    """A backend at the start of a forward pass, without a model runner behind it."""
    made = kind.__new__(kind)
    made.use_sliding_window_kv_pool = False
    made.init_forward_metadata(None)
    made._sinks = sinks
    return made


SHAPES = pytest.mark.parametrize(
    ("dtype", "heads", "kv_heads", "tolerance"),
    [
        (torch.float32, 4, 2, 1e-5),
        (torch.float32, 6, 1, 1e-5),
        (torch.float32, 3, 3, 1e-5),
        (torch.bfloat16, 8, 2, 2e-2),
    ],
)
WINDOWS = pytest.mark.parametrize("window", [None, 17])
SINKS = pytest.mark.parametrize("with_sinks", [False, True])


@SHAPES
@WINDOWS
@SINKS
def test_decode(
    dtype: torch.dtype,
    heads: int,
    kv_heads: int,
    tolerance: float,
    window: int | None,
    with_sinks: bool,
) -> None:
    keys, values, table, requests = case(dtype, heads, kv_heads, 32)
    sinks = torch.randn(heads) if with_sinks else None
    lengths = torch.tensor(LENGTHS)
    query = torch.randn(len(LENGTHS), heads, 32, dtype=dtype)
    output = torch.full((len(LENGTHS), heads, 16), torch.nan, dtype=dtype)
    backend(sinks)._run_sdpa_forward_decode(
        query, output, keys, values, table, requests, lengths, None,
        scaling=0.2, enable_gqa=heads != kv_heads, sliding_window_size=window,
    )  # fmt: skip
    for row, (request, length) in enumerate(zip(requests, LENGTHS, strict=True)):
        slots = table[request, :length]
        want = reference(query[row], keys[slots], values[slots], length - 1, 0.2, window, sinks)
        torch.testing.assert_close(output[row].double(), want, atol=tolerance, rtol=tolerance)


@SHAPES
@WINDOWS
@SINKS
def test_prefill_with_and_without_a_cached_prefix(
    dtype: torch.dtype,
    heads: int,
    kv_heads: int,
    tolerance: float,
    window: int | None,
    with_sinks: bool,
) -> None:
    keys, values, table, requests = case(dtype, heads, kv_heads, 32)
    sinks = torch.randn(heads) if with_sinks else None
    # Whole prompts, all but one token cached, and something between.
    new = torch.tensor([1, 2, 1, 64, 9, 1, 250])
    lengths = torch.tensor(LENGTHS)
    query = torch.randn(int(new.sum()), heads, 32, dtype=dtype)
    output = torch.full((len(query), heads, 16), torch.nan, dtype=dtype)
    backend(sinks)._run_sdpa_forward_extend(
        query, output, keys, values, table, requests, lengths, lengths - new, new, None,
        scaling=0.2, enable_gqa=heads != kv_heads, causal=True, sliding_window_size=window,
    )  # fmt: skip
    row = 0
    for request, length, count in zip(requests, LENGTHS, new.tolist(), strict=True):
        slots = table[request, :length]
        for position in range(length - count, length):
            want = reference(query[row], keys[slots], values[slots], position, 0.2, window, sinks)
            torch.testing.assert_close(output[row].double(), want, atol=tolerance, rtol=tolerance)
            row += 1


def test_a_row_does_not_depend_on_its_batch() -> None:
    keys, values, table, requests = case(torch.float32, 4, 2, 32, 32)
    lengths = torch.tensor(LENGTHS)
    query = torch.randn(len(LENGTHS), 4, 32)

    def run(rows: slice) -> Tensor:
        output = torch.empty(len(query[rows]), 4, 32)
        return backend()._run_sdpa_forward_decode(
            query[rows], output, keys, values, table, requests[rows], lengths[rows], None,
            scaling=0.2, enable_gqa=True,
        )  # fmt: skip

    together = run(slice(None))
    assert max(LENGTHS) > 2 * PADDED_TO
    for row in range(len(LENGTHS)):
        assert torch.equal(run(slice(row, row + 1))[0], together[row])


@WINDOWS
@SINKS
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2), (6, 1), (3, 3)])
def test_drafts(heads: int, kv_heads: int, window: int | None, with_sinks: bool) -> None:
    """Each node sees what is committed, its ancestors and itself, at the positions of its way."""
    keys, values, table, requests = case(torch.float32, heads, kv_heads, 32)
    sinks = torch.randn(heads) if with_sinks else None
    rng = random.Random(heads)
    batch = [Draft.drawn(rng, 6, 9) for _ in LENGTHS]
    masks = [
        torch.cat([torch.ones(6, length, dtype=torch.bool), draft.mask()], 1).flatten()
        for length, draft in zip(LENGTHS, batch, strict=True)
    ]
    attention = backend(sinks)
    attention._drafts = SimpleNamespace(draft_token_num=6, custom_mask=torch.cat(masks))
    query = torch.randn(len(LENGTHS) * 6, heads, 32)
    output = torch.full((len(query), heads, 16), torch.nan)
    attention._run_sdpa_forward_extend(
        query, output, keys, values, table, requests, torch.tensor(LENGTHS), None, None, None,
        scaling=0.2, enable_gqa=heads != kv_heads, causal=True, sliding_window_size=window,
    )  # fmt: skip
    for row, (request, length, draft) in enumerate(zip(requests, LENGTHS, batch, strict=True)):
        for node in range(6):
            way = [0, *draft.way(node)]
            slots = torch.cat([table[request, :length], table[request, [length + n for n in way]]])
            position = length + len(way) - 1
            want = reference(
                query[row * 6 + node], keys[slots], values[slots], position, 0.2, window, sinks
            )
            torch.testing.assert_close(output[row * 6 + node].double(), want, atol=1e-5, rtol=1e-5)


@WINDOWS
@pytest.mark.parametrize(("topk", "steps", "step"), [(1, 4, 0), (1, 4, 2), (3, 4, 2), (2, 2, 0)])
def test_steps_of_a_draft(topk: int, steps: int, step: int, window: int | None) -> None:
    """Each branch sees what is committed, and its own tokens of the steps so far."""
    keys, values, table, requests = case(torch.float32, 4, 2, 32)
    attention = backend(kind=AttentionOfStep)
    attention.topk, attention.steps, attention.step = topk, steps, step
    query = torch.randn(len(LENGTHS) * topk, 4, 32)
    output = torch.full((len(query), 4, 16), torch.nan)
    attention._run_sdpa_forward_decode(
        query, output, keys, values, table, requests, torch.tensor(LENGTHS), None,
        scaling=0.2, enable_gqa=True, sliding_window_size=window,
    )  # fmt: skip
    for row, (request, length) in enumerate(zip(requests, LENGTHS, strict=True)):
        for branch in range(topk):
            first = length + branch * steps
            slots = torch.cat([table[request, :length], table[request, first : first + step + 1]])
            want = reference(
                query[row * topk + branch], keys[slots], values[slots], length + step, 0.2, window,
                None,
            )  # fmt: skip
            found = output[row * topk + branch].double()
            torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-5)


def test_rows_as_long_as_the_table_of_slots() -> None:
    """Padding ends where the table does."""
    keys, values, _, requests = case(torch.float32, 4, 2, 32, 32)
    table = torch.randint(SLOTS, (16, 70), dtype=torch.int32)
    lengths = torch.full((len(LENGTHS),), 70)
    query = torch.randn(len(LENGTHS), 4, 32)
    output = backend()._run_sdpa_forward_decode(
        query, torch.empty_like(query), keys, values, table, requests, lengths, None,
        scaling=0.2, enable_gqa=True,
    )  # fmt: skip
    slots = table[requests[0]]
    want = reference(query[0], keys[slots], values[slots], 69, 0.2, None, None)
    torch.testing.assert_close(output[0].double(), want, atol=1e-5, rtol=1e-5)
