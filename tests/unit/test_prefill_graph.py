"""Captured streams survive SGLang's prefill CUDA graph, which runs no Python of the layers again.

SGLang's own prefill runner and breakable backend record the decoder stack and replay it; a tape of
the operations stands in for the graph.
"""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sglang.srt.model_executor.cuda_graph_config import Backend
from sglang.srt.model_executor.runner import prefill_cuda_graph_runner as runner_module
from sglang.srt.model_executor.runner.prefill_cuda_graph_runner import PrefillCudaGraphRunner
from sglang.srt.model_executor.runner.shape_key import ShapeKey
from sglang.srt.model_executor.runner_backend import breakable_cuda_graph_backend as backend_module
from sglang.srt.model_executor.runner_backend.breakable_cuda_graph_backend import (
    BreakableCudaGraphBackend,
)
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from led_sglang.patches.capture import WRAPPERS, capture_by

LAYERS, HIDDEN = 6, 4
# 0-based layers whose output is wanted; -1 is the embeddings.
WANTED = [-1, 2, 3]
SIZES = (8, 4)


class Tape(TorchDispatchMode):
    """Every operation of a recorded forward, to be run again on the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        self._calls.append((func, args, kwargs or {}, output))
        return output

    def replay(self) -> None:
        for func, args, kwargs, output in self._calls:
            again = func(*args, **kwargs)
            if again.data_ptr() != output.data_ptr():
                output.copy_(again)


class Boundary:
    """SGLang's attention boundary as far as a capture uses it."""

    def prepare(self, hidden_states: Tensor, forward_batch: Any, capture: Any = None) -> Tensor:
        if capture is not None:
            capture(hidden_states)
        return hidden_states

    def capture_output(self, hidden_states: Tensor, forward_batch: Any) -> tuple[Tensor, Tensor]:
        return hidden_states, hidden_states.clone()


class Layer(nn.Module):
    """Adds one to the stream; half of it enters as a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.attn_boundary = self.entry_boundary = Boundary()
        self.runs = 0

    def forward(
        self, positions: Tensor, hidden_states: Tensor, forward_batch: Any, residual: Any = None
    ) -> Tensor:
        self.runs += 1
        stream = hidden_states if residual is None else hidden_states + residual
        return self.attn_boundary.prepare(stream, forward_batch) + 1


class StaleLayer(Layer):
    """What enters is the whole stream; the residual beside it is of another layer."""

    def forward(
        self, positions: Tensor, hidden_states: Tensor, forward_batch: Any, residual: Any = None
    ) -> Tensor:
        return super().forward(positions, hidden_states, forward_batch)


class Stack(nn.Module):
    def __init__(self, split: bool, stale: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList((StaleLayer if stale else Layer)() for _ in range(LAYERS))
        self.split, self.stale = split, stale

    def forward(
        self, input_ids: Tensor, positions: Tensor, forward_batch: Any, input_embeds: Any = None
    ) -> Tensor:
        stream = input_ids[:, None].expand(-1, HIDDEN) * 1.0
        for layer in self.layers:
            halves = (stream / 4, stream * 3 / 4) if self.split else (stream, None)
            if self.stale:
                halves = (stream, stream * 5)
            stream = layer(positions, halves[0], forward_batch, halves[1])
        return stream * 100


class LogitsProcessor(nn.Module):
    def forward(
        self,
        input_ids: Tensor,
        hidden_states: Tensor,
        lm_head: Any,
        logits_metadata: Any,
        aux_hidden_states: Any = None,
    ) -> tuple[Tensor, Any]:
        return hidden_states, aux_hidden_states


class CausalLM(nn.Module):
    def __init__(self, split: bool, stale: bool = False) -> None:
        super().__init__()
        self.model = Stack(split, stale)
        self.logits_processor = LogitsProcessor()

    def forward(self, input_ids: Tensor, positions: Tensor, forward_batch: Any) -> Any:
        hidden = self.model(input_ids, positions, forward_batch)
        return self.logits_processor(input_ids, hidden, None, forward_batch)

    def layer_runs(self) -> int:
        return sum(layer.runs for layer in self.model.layers)


def batch_of(ids: Tensor) -> Any:
    return SimpleNamespace(input_ids=ids, positions=ids, input_embeds=None, mm_input_embeds=None)


def runner_of(model: CausalLM, monkeypatch: pytest.MonkeyPatch) -> PrefillCudaGraphRunner:
    """SGLang's runner and backend, with everything that asks for a device taken out."""
    monkeypatch.setattr(backend_module, "BreakableCUDAGraph", lambda deduped: Tape())
    monkeypatch.setattr(
        backend_module, "BreakableCUDAGraphCapture", lambda cuda_graph, **_: cuda_graph
    )
    for scope in ("graph_pool_capture_scope", "graph_pool_replay_scope"):
        monkeypatch.setattr(backend_module, scope, nullcontext)
    runner: Any = PrefillCudaGraphRunner.__new__(PrefillCudaGraphRunner)
    runner.layer_model = runner_module._resolve_transformer_layer_model(model)
    runner.prefill_backend_name = Backend.BREAKABLE
    runner._is_full_backend = runner.is_dsv41_model = False
    runner._use_draft_input_embeds = runner._qwen_bcg_hc_sidechannel = False
    runner.model_runner = SimpleNamespace(pp_group=SimpleNamespace(is_first_rank=True), model=model)
    runner.buffer_registry = SimpleNamespace(has_slot=lambda name: False)
    runner._prefill_forward_context = lambda *_, **__: nullcontext()
    backend: Any = BreakableCudaGraphBackend.__new__(BreakableCudaGraphBackend)
    backend._cuda_graph_runner = SimpleNamespace(
        cuda_graph_output_rows=lambda output: None,
        cuda_graph_output_capacity_rows=lambda output: None,
    )
    backend._device_module = SimpleNamespace(synchronize=lambda: None)
    backend._tp_group = SimpleNamespace(barrier=lambda: None)
    backend._precarve = SimpleNamespace(measure=nullcontext, mint=lambda: None)
    backend.deduped_cuda_graph = backend._pool = backend._capture_stream = None
    backend._debug_eager, backend._shared_output_buffer = False, None
    backend._graphs, backend._outputs, backend._capture_inputs = {}, {}, {}
    runner.backend = backend
    return runner


def capture(runner: Any, ids: Tensor) -> None:
    """Record the stack's forward as `_run_forward` calls it, for as many rows as `ids` has."""
    batch = batch_of(ids)
    named = runner_module._build_layer_model_forward_kwargs(runner.layer_model, batch, None)

    def forward() -> Any:
        output = runner.layer_model.forward(ids, ids, batch, **named)
        return runner._pack_qwen_bcg_hc_output(output)

    runner.backend.capture_one(ShapeKey(size=len(ids)), forward)


@pytest.mark.parametrize("method", WRAPPERS)
def test_replayed_streams_are_those_of_the_replayed_tokens(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = CausalLM(split=method == "layer_input", stale=method == "whole_input")
    capture_by(method, model, LAYERS, WANTED)
    runner: Any = runner_of(model, monkeypatch)
    static = {size: torch.arange(size) for size in SIZES}
    for ids in static.values():
        capture(runner, ids)
    # The largest graph follows the smallest capture, then they alternate.
    for step, size in enumerate((*SIZES, *SIZES)):
        ids = torch.arange(size) * 7 + step
        eager_hidden, eager_streams = model(ids, ids, batch_of(ids))
        static[size].copy_(ids)
        runs = model.layer_runs()
        batch = batch_of(static[size])
        hidden, streams = runner._execute_body_capture(
            batch, batch, size, size, ShapeKey(size=size)
        )
        assert model.layer_runs() == runs
        assert torch.equal(hidden, eager_hidden)
        assert streams is not None, "the logits processor got no captured layers"
        for layer, stream, eager in zip(WANTED, streams, eager_streams, strict=True):
            assert torch.equal(stream, eager)
            assert torch.equal(stream[:, 0], ids + layer + 1.0)


@pytest.mark.parametrize("method", WRAPPERS)
def test_paused_or_removed_capture_reads_nothing(method: str) -> None:
    model = CausalLM(split=False)
    ids = torch.arange(3)
    capture = capture_by(method, model, LAYERS, WANTED)
    hidden, streams = model(ids, ids, batch_of(ids))
    with capture.paused():
        assert model(ids, ids, batch_of(ids))[1] is None
    assert len(model(ids, ids, batch_of(ids))[1]) == len(streams) == len(WANTED)
    capture.remove()
    plain, none = model(ids, ids, batch_of(ids))
    assert none is None
    assert torch.equal(plain, hidden)
    assert "forward" not in vars(model.model)
    assert not any("prepare" in vars(layer.attn_boundary) for layer in model.model.layers)
