"""Captured streams beside a drafter: which are LED's, and what the drafter gets unchanged."""

from __future__ import annotations

from typing import Any

from sglang.srt.model_executor.forward_batch_info import CaptureHiddenMode
from torch import Tensor

from led_sglang.patches.captured_streams import STREAMS_ATTRIBUTE, columns_of
from led_sglang.patches.hooks import hook
from led_sglang.patches.published import settings_or_none


def _captures(spec_algorithm: Any, is_draft_worker: bool) -> tuple[int, ...]:
    """The streams LED reads from a model that verifies drafts; none from any other."""
    settings = settings_or_none()
    if settings is None or is_draft_worker or spec_algorithm.is_none():
        return ()
    return settings.captured


@hook(
    "model_executor.model_runner_components.spec_aux_hidden_state."
    "resolve_spec_aux_hidden_state_config",
    "AFTER",
)
def _capture_for_verification(
    result: Any, *, spec_algorithm: Any, is_draft_worker: bool, **_: Any
) -> None:
    """SGLang's capture-only mode is for servers without a drafter: name LED's layers here."""
    captured = _captures(spec_algorithm, is_draft_worker)
    if captured:
        result.dflash_use_aux_hidden_state = True
        result.dflash_target_layer_ids = [layer - 1 for layer in captured]


@hook("model_executor.forward_batch_info.ForwardBatch.init_new", "AFTER")
def _keep_streams(result: Any, cls: type, batch: Any, model_runner: Any, **_: Any) -> None:
    """Where no drafter reads hidden states (STANDALONE), SGLang would keep none."""
    if not _captures(model_runner.spec_algorithm, model_runner.is_draft_worker):
        return
    if result.capture_hidden_mode == CaptureHiddenMode.NULL:
        result.capture_hidden_mode = CaptureHiddenMode.LAST


@hook("model_executor.model_runner.ModelRunner.forward", "AFTER")
def _part(result: Any, self: Any, forward_batch: Any, *_: Any, **__: Any) -> None:
    """Part a forward's hidden states into LED's streams and what a drafter waits for."""
    output = result.logits_output
    streams: Tensor | None = getattr(output, "hidden_states", None)
    if streams is None or not _captures(self.spec_algorithm, self.is_draft_worker):
        return
    full = forward_batch.capture_hidden_mode.is_full()
    columns = columns_of(self.model)
    theirs: Tensor | None = output.last_hidden_states if full else None
    ours = streams
    if columns is not None:
        by_layer = streams.unflatten(1, (columns.count, -1))
        theirs = by_layer[:, list(columns.drafter)].flatten(1)
        ours = by_layer[:, list(columns.led)].flatten(1)
    mode = forward_batch.forward_mode
    if full and mode.is_extend() and not mode.is_target_verify():
        # Of a prefill all tokens are kept: the last of each request makes its logits.
        ours = ours[forward_batch.extend_seq_lens.cumsum(0) - 1]
    setattr(output, STREAMS_ATTRIBUTE, ours)
    output.hidden_states, output.last_hidden_states = theirs, None
