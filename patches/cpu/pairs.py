"""What a prefill/decode pair needs to run on the CPU platform.

A prefill server notes in CUDA events when the cache that it sends is ready, and copies its places
through page-locked memory. On this platform there is neither: what has been called has been done.
"""

from __future__ import annotations

from typing import Any

import torch


class DoneEvent:
    """A CUDA event of a device that has done all it was asked for."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def record(self, stream: Any = None) -> None:
        """Nothing is under way."""

    def wait(self, stream: Any = None) -> None:
        """There is nothing to wait for."""

    def synchronize(self) -> None:
        """There is nothing to wait for."""

    def query(self) -> bool:
        """Whether what came before the event is done."""
        return True


def install() -> None:
    """Put them in place, in this process, before a prefill server sends anything."""
    from sglang.srt.disaggregation.mooncake.conn import MooncakeKVSender

    torch.cuda.Event = DoneEvent  # type: ignore[assignment, misc]
    # Places are then sent as NumPy arrays, as those of SGLang's other transfer engines.
    MooncakeKVSender.supports_host_tensor_indices = False
