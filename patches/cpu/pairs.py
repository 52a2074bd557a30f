"""What a prefill/decode pair needs to run on the CPU platform.

A prefill server notes in CUDA events when the cache that it sends is ready, and copies its places
through page-locked memory. On this platform there is neither: what has been called has been done.
"""

from __future__ import annotations

from typing import Any

import torch

# Of Mooncake's TCP transport. By default a transfer fails that has more than some 2,000 pieces, or
# whose pieces wait for more than a second; a page of one token makes a piece for each layer.
TRANSFER_LIMITS = {
    "MC_TCP_ENABLE_CONNECTION_POOL": "1",
    "MC_TCP_MAX_QUEUED_TRANSFERS_PER_PEER": "65535",
    "MC_TCP_MAX_PENDING_ADMISSIONS_PER_PEER": "65535",
    "MC_TCP_ADMISSION_TIMEOUT_MS": "600000",
}


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
