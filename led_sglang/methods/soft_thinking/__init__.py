"""SoftThinking and its noisy variants: the next input is a mixture of embeddings
(docs/method.md#soft-thinking)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from led_sglang.methods.base import LoadedModel, Method
from led_sglang.methods.soft_thinking.params import (
    SOFT_COLUMNS,
    SOFT_SAMPLERS,
    SUMMARY_KEY,
    TRACE_KEY,
    SoftThinkingParams,
    check_filters,
    parse_soft,
)
from led_sglang.settings import ServerSettings

if TYPE_CHECKING:
    import torch

    from led_sglang.methods.soft_thinking.record import SoftHistory
    from led_sglang.methods.soft_thinking.sampler import SoftSampler
    from led_sglang.methods.soft_thinking.state import SoftState


class SoftThinking(Method):
    """Emits the heaviest token of a mixture and feeds the mixture back, while thinking."""

    samplers = SOFT_SAMPLERS
    params = SoftThinkingParams
    columns = SOFT_COLUMNS
    summary = SUMMARY_KEY
    lists = (TRACE_KEY,)

    def parse(
        self, sampler: str, group: Mapping[str, Any], settings: ServerSettings
    ) -> SoftThinkingParams:
        """See `Method.parse`."""
        return parse_soft(sampler, group, settings)

    def check(self, params: SoftThinkingParams, top_k: int) -> None:
        """See `Method.check`."""
        check_filters(params, top_k)

    def statistics(self) -> SoftHistory:
        """See `Method.statistics`."""
        from led_sglang.methods.soft_thinking.record import SoftHistory

        return SoftHistory()

    def allocate(self, slots: int, device: torch.device | str) -> SoftState:
        """See `Method.allocate`."""
        from led_sglang.methods.soft_thinking.state import SoftState

        return SoftState.allocate(slots, device)

    def bind(self, model: LoadedModel, state: SoftState) -> SoftSampler:
        """See `Method.bind`."""
        from led_sglang.methods.soft_thinking.sampler import SoftSampler

        return SoftSampler(model, state)
