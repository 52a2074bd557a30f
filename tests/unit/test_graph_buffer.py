"""The captured layers of every decode graph share one buffer, whoever wrote them into it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sglang.srt.layers.aux_hidden_states import (
    AuxHiddenStateList,
    AuxHiddenStatePacker,
    pack_aux_hidden_states,
)
from sglang.srt.layers.logits_processor import LogitsProcessorOutput

from led_sglang.patches import graph_buffer
from led_sglang.patches.graph_buffer import share_buffer

LAYERS, HIDDEN = 3, 8


def record(size: int, shared: torch.Tensor | None, packs: bool, seed: int) -> LogitsProcessorOutput:
    """What a graph of `size` rows leaves: a model that packs writes into the buffer itself."""
    generator = torch.Generator().manual_seed(seed)
    batch: Any = SimpleNamespace(aux_hidden_states_buffer=None if shared is None else shared[:size])
    captured: Any = AuxHiddenStatePacker.for_batch(batch, LAYERS) if packs else AuxHiddenStateList()
    for _ in range(LAYERS):
        captured.capture(torch.randn(size, HIDDEN, generator=generator))
    output = LogitsProcessorOutput(
        next_token_logits=torch.zeros(size, 1),
        hidden_states=pack_aux_hidden_states(captured.finalize() if packs else captured),
    )
    share_buffer(None, output, batch, size)
    return output


@pytest.mark.parametrize("packs", [True, False])
def test_all_sizes_write_to_one_buffer(packs: bool) -> None:
    shared = torch.full((16, LAYERS * HIDDEN), torch.nan)
    outputs = {size: record(size, shared, packs, seed=size) for size in (16, 8, 1)}
    for size, output in outputs.items():
        assert output.hidden_states is not None
        assert output.hidden_states.shape == (size, LAYERS * HIDDEN)
        assert output.hidden_states.data_ptr() == shared.data_ptr()
    # Recording order is replay order here: the last graph's rows are in the buffer.
    alone = record(1, None, packs, seed=1)
    assert torch.equal(shared[:1], alone.hidden_states)
    # The rows of a larger graph come back with its next replay.
    again, alone = record(8, shared, packs, seed=8), record(8, None, packs, seed=8)
    assert torch.equal(again.hidden_states, alone.hidden_states)


def test_a_stream_of_another_dtype_keeps_its_own_output() -> None:
    shared = torch.zeros(4, LAYERS * HIDDEN, dtype=torch.bfloat16)
    output = record(4, shared, packs=False, seed=0)
    assert output.hidden_states.dtype == torch.float32
    assert output.hidden_states.data_ptr() != shared.data_ptr()
    assert torch.count_nonzero(shared) == 0


@pytest.mark.parametrize("captured", [(), (11, 10, 9)])
def test_width_of_the_buffer(captured: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SimpleNamespace(captured=captured)
    monkeypatch.setattr(graph_buffer, "settings_or_none", lambda: settings)
    monkeypatch.setattr(graph_buffer, "samples_here", lambda: True)
    runner = SimpleNamespace(
        is_draft_worker=False,
        capture_tail_hooks=[],
        model=None,
        model_config=SimpleNamespace(hidden_size=HIDDEN),
    )
    # Recaptured graphs ask again; the copy must not be recorded twice.
    for _ in range(2):
        width = graph_buffer._width(lambda self: 5, runner)
        assert width == (len(captured) * HIDDEN if captured else 5)
    assert runner.capture_tail_hooks == ([share_buffer] if captured else [])
