"""Faults that a CUDA graph does not forgive, put into a running server to see them found."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from led_sglang.methods.soft_thinking.state import SoftState
from led_sglang.patches import graph_buffer
from led_sglang.patches.stream_capture import StreamCollector

Patches = list[tuple[Any, str, Any]]


def _streams_taken_at_capture(runner: Any) -> Patches:
    """The streams are those of the tokens that were there when the graph was captured."""

    def take(self: Any, stream: Tensor, *, owned: bool = False) -> None:
        with _disable_current_modes(), torch._C.DisableTorchFunction():
            self._streams.append(stream.clone())

    return [(StreamCollector, "take", take)]


def _buffer_not_copied(runner: Any) -> Patches:
    """A graph's output points to the shared buffer, and nothing of the graph writes there."""

    def share(runner: Any, output: Any, forward_batch: Any, num_tokens: int) -> None:
        output.hidden_states = forward_batch.aux_hidden_states_buffer

    others = [hook for hook in runner.capture_tail_hooks if hook is not graph_buffer.share_buffer]
    return [
        (graph_buffer, "share_buffer", share),
        (runner, "capture_tail_hooks", [*others, share]),
    ]


def _padding_rows(runner: Any) -> Patches:
    """The captured layers are read from the end of the bucket, where padding stands."""
    decode = runner.decode_cuda_graph_runner
    execute = decode.execute

    def from_the_end(forward_batch: Any, *args: Any, **kwargs: Any) -> Any:
        output = execute(forward_batch, *args, **kwargs)
        whole = decode.backend._outputs[decode._replay_graph_key].hidden_states
        return replace(output, hidden_states=whole[-forward_batch.batch_size :])

    return [(decode, "execute", from_the_end)]


def _soft_tables_replaced(runner: Any) -> Patches:
    """The soft methods' tables are made anew each step, where a graph reads the first ones."""
    store = SoftState.store

    def replaced(self: Any, *args: Any) -> None:
        for name in ("ids", "weights", "active"):
            object.__setattr__(self, name, getattr(self, name).clone())
        store(self, *args)

    return [(SoftState, "store", replaced)]


@dataclass(frozen=True)
class Fault:
    """What to put where, given SGLang's model runner; `captured` if graphs must be made with it."""

    patches: Callable[[Any], Patches]
    captured: bool = False


FAULTS = {
    "streams taken at capture": Fault(_streams_taken_at_capture, captured=True),
    "shared buffer not copied": Fault(_buffer_not_copied, captured=True),
    "rows of the padding": Fault(_padding_rows),
    # The graphs stay with the tables they know: the server is of no use after this one.
    "soft tables replaced": Fault(_soft_tables_replaced),
}

_present: str | None = None
_patches = ExitStack()


def change(runner: Any, name: str) -> None:
    """Put in the fault of this name, if it is one, and take out the one before.

    Args:
        runner: SGLang's model runner.
        name: of a fault, or any other.
    """
    global _present
    wanted = name if name in FAULTS else None
    if wanted == _present:
        return
    _patches.close()
    if wanted is not None:
        for owner, attribute, fault in FAULTS[wanted].patches(runner):
            _patches.enter_context(mock.patch.object(owner, attribute, fault))
    if any(FAULTS[fault].captured for fault in (_present, wanted) if fault is not None):
        runner.init_prefill_cuda_graph()
        runner.init_decode_cuda_graph()
    _present = wanted
