"""Recorded graphs replay what a CUDA graph would, and refuse what it would refuse."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from graphs.recorded_graph import CaptureError, RecordedGraph, as_kernel, capture
from torch import Tensor
from torch.nn.functional import linear

ROWS, WIDTH = 4, 8


@pytest.fixture(autouse=True)
def _inference() -> Any:
    with torch.inference_mode():
        yield


def test_a_replay_reads_what_is_in_the_memory_then() -> None:
    weight, x, cache = torch.randn(WIDTH, WIDTH), torch.randn(ROWS, WIDTH), torch.zeros(9, WIDTH)
    slots = torch.tensor([7, 2])
    graph, runs = RecordedGraph(), 0
    with capture(graph):
        runs += 1
        hidden = linear(x, weight)
        residual = hidden + x
        view = residual.view(2, 2 * WIDTH).reshape(ROWS, WIDTH)  # a view of a view
        out = torch.empty_like(residual)
        out.copy_(view * 2)
        cache[slots] = out[:2]  # memory that the graph does not own
        values, order = out.sort(-1)  # two results
        del hidden, residual, view
    for seed in range(3):
        x.normal_(generator=torch.Generator().manual_seed(seed))
        graph.replay()
        expected = (linear(x, weight) + x) * 2
        assert torch.equal(out, expected)
        assert torch.equal(values, expected.sort(-1).values)
        assert torch.equal(order, expected.sort(-1).indices)
        assert torch.equal(cache[slots], expected[:2])
    assert runs == 1


def test_a_state_is_stepped_once_a_replay() -> None:
    """A recurrent layer's state is outside the graph, read and then written by it."""
    state, x = torch.zeros(3, WIDTH), torch.ones(1, WIDTH)
    slot = torch.tensor([1])
    graph = RecordedGraph()
    with capture(graph):
        new = state[slot] * 0.5 + x
        state[slot] = new
        state[2].add_(1.0)
    state.zero_()
    for _ in range(3):
        graph.replay()
    assert state[:, 0].tolist() == [0.0, 1.75, 3.0]


def test_memory_of_a_graph_is_poisoned_between_replays() -> None:
    x = torch.ones(ROWS)
    graph = RecordedGraph()
    with capture(graph):
        inner = x + 1
        out = inner * 2
        ids = x.long() + 1
        freed = ids * 2
        address = freed.data_ptr()
        kept = freed + 1
        del freed
    graph.replay()
    assert inner.tolist() == [2.0] * ROWS  # Python holds it: not freed
    assert out.tolist() == [4.0] * ROWS
    assert kept.tolist() == [5] * ROWS
    poisoned = next(m for m in graph._memory.values() if m.storage.data_ptr() == address)
    assert not poisoned.kept
    assert set(bytes(poisoned.storage)) == {0x7F}


def test_a_stale_output_does_not_survive() -> None:
    """A result that a replay does not make again is NaN, not the capture's."""
    x = torch.ones(ROWS)
    graph = RecordedGraph()
    with capture(graph):
        out = torch.empty(2 * ROWS)
        out[:ROWS].copy_(x)
    graph.replay()
    assert out[:ROWS].tolist() == [1.0] * ROWS
    assert out[ROWS:].isnan().all()


READS: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool(x.sum() > 0),
    "int": lambda x: int(x.sum()),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "numpy": lambda x: x.numpy(),
    "asarray": lambda x: np.asarray(x),
    "mask": lambda x: x[x > 0],
    "masked write": lambda x: x.__setitem__(x > 0, 1.0),
    "nonzero": lambda x: x.nonzero(),
    "unique": lambda x: x.unique(),
    "where": lambda x: torch.where(x > 0),
    "equal": lambda x: torch.equal(x, x),
    "repeats": lambda x: torch.repeat_interleave(x, x.long()),
}


@pytest.mark.parametrize("read", READS)
def test_a_value_read_in_a_capture_is_refused(read: str) -> None:
    x = torch.ones(ROWS)
    READS[read](x)  # outside a capture it may be
    with pytest.raises(CaptureError), capture(RecordedGraph()):
        READS[read](x + 1)
    with capture(RecordedGraph()):  # a capture that failed leaves nothing behind
        x + 1


def test_what_no_operation_wrote_is_found() -> None:
    """As a kernel that torch does not know would, on memory that the graph owns."""

    def unseen() -> Tensor:
        out = torch.empty(ROWS)
        ctypes.memset(out.data_ptr(), 1, ROWS * 4)
        return out + 1

    found = pytest.raises(CaptureError, match=r"aten.add.Tensor \(.*no operation of torch")
    with found, capture(RecordedGraph()):
        unseen()


def test_a_kernel_is_one_node() -> None:
    @as_kernel
    def attend(lengths: Tensor, out: Tensor) -> Tensor:
        for row, length in enumerate(lengths.tolist()):
            out[row] = length
        return out * 2

    lengths = torch.tensor([3.0, 5.0])
    graph = RecordedGraph()
    with capture(graph):
        out = torch.empty(2)
        doubled = attend(lengths, out)
    assert len(graph._nodes) == 1
    lengths.copy_(torch.tensor([7.0, 9.0]))
    graph.replay()
    assert out.tolist() == [7.0, 9.0]
    assert doubled.tolist() == [14.0, 18.0]
