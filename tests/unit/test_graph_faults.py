"""Each fault of tests/server/graphs/faults.py does to a recorded graph what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from graphs import faults
from graphs.recorded_graph import RecordedGraph, capture
from torch import Tensor

from led_sglang.methods.soft_thinking.state import SoftState
from led_sglang.patches import graph_buffer
from led_sglang.patches.stream_capture import StreamCollector

ROWS, WIDTH = 3, 4


@dataclass
class Output:
    hidden_states: Tensor


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def replayed(
    forward: Callable[[Tensor], Tensor], before: Callable[[], object] = lambda: None
) -> tuple[Tensor, Tensor]:
    """What `forward`, captured on zeros, gives when it is replayed on ones; and the truth."""
    static = torch.zeros(ROWS, WIDTH)
    graph = RecordedGraph()
    with capture(graph):
        output = forward(static)
    static.fill_(1.0)
    before()
    graph.replay()
    return output, forward(static)


def put(name: str, runner: Any) -> list[Any]:
    """Patches of a fault, to be entered."""
    patches = faults.FAULTS[name].patches(runner)
    return [mock.patch.object(*patch) for patch in patches]


@pytest.mark.parametrize("owned", [True, False])
@pytest.mark.parametrize("faulty", [False, True])
def test_streams_taken_at_capture(owned: bool, faulty: bool) -> None:
    collector: Any = StreamCollector.__new__(StreamCollector)

    def forward(x: Tensor) -> Tensor:
        collector._streams = []
        collector.take(x * 2, owned=owned)
        stream: Tensor = collector._streams[0] + 0
        return stream

    [patch] = put("streams taken at capture", None)
    if not faulty:
        output, truth = replayed(forward)
        assert torch.equal(output, truth)
        return
    with patch:
        output, truth = replayed(forward)
    assert output.count_nonzero() == 0  # of the capture's input
    assert truth.count_nonzero() > 0


@pytest.mark.parametrize("faulty", [False, True])
def test_shared_buffer_not_copied(faulty: bool) -> None:
    shared = torch.full((ROWS, WIDTH), 7.0)
    runner: Any = SimpleNamespace(capture_tail_hooks=[graph_buffer.share_buffer])

    def forward(x: Tensor) -> Tensor:
        output: Any = SimpleNamespace(hidden_states=x * 2)
        batch = SimpleNamespace(aux_hidden_states_buffer=shared)
        for hook in runner.capture_tail_hooks:
            hook(runner, output, batch, ROWS)
        hidden: Tensor = output.hidden_states
        return hidden

    patches = put("shared buffer not copied", runner) if faulty else []
    for patch in patches:
        patch.start()
    output, _ = replayed(forward, lambda: shared.fill_(7.0))
    assert output.data_ptr() == shared.data_ptr()
    assert output.unique().tolist() == ([7.0] if faulty else [2.0])
    mock.patch.stopall()
    assert runner.capture_tail_hooks == [graph_buffer.share_buffer]


def test_rows_of_the_padding() -> None:
    bucket = torch.arange(8.0)[:, None]

    def execute(forward_batch: Any) -> Any:
        return Output(hidden_states=bucket[: forward_batch.batch_size])

    backend = SimpleNamespace(_outputs={"key": SimpleNamespace(hidden_states=bucket)})
    decode = SimpleNamespace(execute=execute, backend=backend, _replay_graph_key="key")
    batch = SimpleNamespace(batch_size=3)
    [patch] = put("rows of the padding", SimpleNamespace(decode_cuda_graph_runner=decode))
    assert decode.execute(batch).hidden_states.flatten().tolist() == [0.0, 1.0, 2.0]
    with patch:
        assert decode.execute(batch).hidden_states.flatten().tolist() == [5.0, 6.0, 7.0]


@pytest.mark.parametrize("faulty", [False, True])
def test_soft_tables_replaced(faulty: bool) -> None:
    state = SoftState.allocate(5, "cpu")
    slots = torch.tensor([4, 1, 2])
    ids = torch.tensor([[3, 4], [5, 6], [7, 8]])
    weights = torch.tensor([[0.5, 0.5], [0.25, 0.75], [1.0, 0.0]])
    active = torch.tensor([True, True, False])

    def forward(x: Tensor) -> Tensor:
        return x[:, 0] * state.weights[slots].sum(1) * state.active[slots]

    def step() -> None:
        state.store(slots, ids, weights, active, torch.zeros(ROWS, dtype=torch.int64))

    [patch] = put("soft tables replaced", None)
    if faulty:
        with patch:
            output, truth = replayed(forward, step)
        assert output.tolist() == [0.0, 0.0, 0.0]
    else:
        output, truth = replayed(forward, step)
        assert torch.equal(output, truth)
    assert truth.tolist() == [1.0, 1.0, 0.0]
