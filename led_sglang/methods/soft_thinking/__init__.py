"""SoftThinking and its noisy variants: the next input is a mixture of embeddings
(docs/method.md#soft-thinking)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from led_sglang.methods.base import LoadedModel, Method
from led_sglang.methods.parameter import parse_group
from led_sglang.methods.soft_thinking.params import (
    SOFT_COLUMNS,
    SOFT_SAMPLERS,
    SUMMARY_KEY,
    TRACE_KEY,
    SoftThinkingParams,
)
from led_sglang.methods.values import ParameterError
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
    # What its think steps pass on is a mixture of embeddings, no token of a set.
    has_sampling_mask = False

    def parse(
        self, sampler: str, group: Mapping[str, Any], settings: ServerSettings
    ) -> SoftThinkingParams:
        given = parse_group(sampler, group, self.parameters(sampler), settings)
        return SoftThinkingParams(sampler, **given, max_topk_given="max_topk" in given)

    def check(self, params: SoftThinkingParams, top_k: int) -> None:
        """Refuse a `max_topk` above the request's `top_k`: those weights would always be 0."""
        if params.max_topk_given and 0 < top_k < params.max_topk:
            raise ParameterError(
                f"custom_params.{params.noise}.max_topk must be at most the request's top_k, which "
                f"is {top_k} (temperature 0 counts as top_k 1), got {params.max_topk}"
            )

    def statistics(self) -> SoftHistory:
        from led_sglang.methods.soft_thinking.record import SoftHistory

        return SoftHistory()

    def allocate(self, slots: int, device: torch.device | str) -> SoftState:
        from led_sglang.methods.soft_thinking.state import SoftState

        return SoftState.allocate(slots, device)

    def bind(self, model: LoadedModel, state: SoftState) -> SoftSampler:
        from led_sglang.methods.soft_thinking.sampler import SoftSampler

        return SoftSampler(model, state)
