"""Plants a fault in LED's steps or in the captured layers, for the checks at launch to find:
`LED_WRONG` names which, and where."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

FAULT = "LED_WRONG"


def register() -> None:
    from led_sglang.kernels.cpu import CpuStep

    fault, _, rank = os.environ[FAULT].partition("@")
    if fault == "shard":
        _shift_the_shard()
        return
    if fault == "layer":
        _shift_the_layers(int(rank))
        return
    right = CpuStep.led_step

    def wrong(self: Any, *given: Any) -> Any:
        if rank and int(rank) != _rank():
            return right(self, *given)
        if fault == "error":
            raise RuntimeError("planted")
        result = right(self, *given)
        return replace(result, token_ids=result.token_ids.roll(1))

    CpuStep.led_step = wrong  # type: ignore[method-assign]


def _rank() -> int:
    from sglang.srt.runtime_context import get_parallel

    return int(get_parallel().tp_rank)


def _shift_the_shard() -> None:
    from led_sglang.patches import binding

    right = binding.lm_head_shard

    def wrong(model: Any) -> Any:
        shard = right(model)
        return replace(shard, weight=shard.weight.roll(1, 0))

    binding.lm_head_shard = wrong


def _shift_the_layers(rank: int) -> None:
    """On this rank the model hands out the streams of the layers above."""
    from led_sglang.patches import proven_capture
    from led_sglang.patches.lm_head import decoder_stack

    right = proven_capture.prove

    def wrong(runner: Any, *given: Any) -> Any:
        if _rank() == rank:
            stack = decoder_stack(runner.model)
            stack.layers_to_capture = [mark + 1 for mark in stack.layers_to_capture]
        return right(runner, *given)

    proven_capture.prove = wrong
