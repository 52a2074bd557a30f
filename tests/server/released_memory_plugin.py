"""A GPU's memory saver: what is released keeps its addresses and loses what it held.

On a CPU, SGLang's `/release_memory_occupation` runs with a memory saver that does nothing. Here the
released weights, buffers and KV hold `GARBAGE` from then on, until somebody writes them anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

# No NaN: torch's attention multiplies what it masks by zero.
GARBAGE = 1e4


def register() -> None:
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    manager = (
        "sglang.srt.managers.scheduler_components.weight_updater.SchedulerWeightUpdaterManager."
    )
    HookRegistry.register(manager + "release_memory_occupation", _lose, HookType.AFTER)


def _lose(result: Any, self: Any, recv_req: Any) -> None:
    released = list(_released(self.tp_worker.model_runner, recv_req.tags))
    with torch.inference_mode():
        for tensor in released:
            if tensor.is_floating_point():
                tensor.fill_(GARBAGE)
    print(f"lost {len(released)} tensors", flush=True)


def _released(runner: Any, tags: Any) -> Iterator[Tensor]:
    """A captured graph's own memory is overwritten before each replay anyway (graph_plugin.py)."""
    if "weights" in tags:
        yield from runner.model.parameters()
        yield from runner.model.buffers()
    if "kv_cache" in tags:
        yield from runner.token_to_kv_pool.k_buffer
        yield from runner.token_to_kv_pool.v_buffer
