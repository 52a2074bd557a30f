"""Captured layers of all decode CUDA graphs in one buffer.

SGLang keeps the outputs of every captured batch size; with K captured layers of width H that is
[size, K*H] each time. One replay is sampled before the next, so all sizes can write to the same
rows, as they do with the logits. SGLang owns such a buffer for speculative decoding; LED asks for
it and, for models that do not write into it themselves, copies inside the graph.
"""

from __future__ import annotations

from typing import Any

from led_sglang.patches.captured_streams import columns_of
from led_sglang.patches.hooks import hook
from led_sglang.patches.published import settings_or_none
from led_sglang.patches.stages import samples_here


@hook("model_executor.model_runner.ModelRunner.get_aux_hidden_states_width", "AROUND")
def _width(original: Any, self: Any) -> int:
    """Asked once for every set of decode graphs, before the first is captured."""
    settings = settings_or_none()
    captures = settings is not None and settings.captured and samples_here()
    if settings is None or not captures or self.is_draft_worker:
        width: int = original(self)
        return width
    if share_buffer not in self.capture_tail_hooks:
        self.capture_tail_hooks.append(share_buffer)
    columns = columns_of(self.model)
    count = len(settings.captured) if columns is None else columns.count
    return count * int(self.model_config.hidden_size)


def share_buffer(runner: Any, output: Any, forward_batch: Any, num_tokens: int) -> None:
    """Point a graph's captured layers at the shared buffer (one of `capture_tail_hooks`).

    Runs while a graph is recorded, after the model's forward, whose `hidden_states` are
    [num_tokens, K*H]. A stream of another width or dtype keeps its own output.
    """
    shared, captured = forward_batch.aux_hidden_states_buffer, output.hidden_states
    if shared is None or captured is None:
        return
    if captured.shape != shared.shape or captured.dtype != shared.dtype:
        return
    if captured.data_ptr() != shared.data_ptr():
        output.hidden_states = shared.copy_(captured)
