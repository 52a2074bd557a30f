"""SGLang's own CUDA graph runners on the CPU platform, with recorded graphs in place of a card's.

`register` runs in every process of a server. graphs/control.py switches the graphs off and on, and
holds a line for each forward: its mode and rows, whether a graph ran, what was replayed, and how
often the Python of a layer ran.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from graphs import control, faults
from graphs.recorded_graph import RecordedGraph, as_kernel, capture
from torch.utils._pytree import tree_leaves

_layer_runs = 0


def register() -> None:
    from sglang.srt.platforms import current_platform
    from sglang.srt.platforms.interface import PlatformCapabilities
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    # The names that SGLang takes from torch.cuda and from the device's module.
    torch.cuda.CUDAGraph = RecordedGraph
    torch.cpu.graph = capture
    torch.cpu.graph_pool_handle = lambda: (0, 1)
    torch.cpu.is_current_stream_capturing = lambda: RecordedGraph.capturing is not None
    torch.cpu.Stream.stream_id = property(id)

    platform = type(current_platform)
    platform.capabilities = PlatformCapabilities(graph_capture=True, piecewise_graph=True)
    platform.get_graph_runner_cls = lambda self: _decode_runner
    executor = "sglang.srt.model_executor."
    for target, hook, kind in (
        ("model_runner.ModelRunner.__init__", _set_up, "BEFORE"),
        ("model_runner_components.cuda_graph_setup.capture_decode_graph", _capture, "AROUND"),
        ("model_runner.ModelRunner.init_cuda_graphs", _count_layer_runs, "BEFORE"),
        ("model_runner.ModelRunner.forward", _forward, "AROUND"),
        ("runner.decode_cuda_graph_runner.DecodeCudaGraphRunner.can_run_graph", _may_run, "AROUND"),
        (
            "runner.prefill_cuda_graph_runner.PrefillCudaGraphRunner.can_run_graph",
            _may_run,
            "AROUND",
        ),
        ("runner_backend.full_cuda_graph_backend.FullCudaGraphBackend.replay", _replay, "AROUND"),
        (
            "runner_backend.breakable_cuda_graph_backend.BreakableCudaGraphBackend.replay",
            _replay,
            "AROUND",
        ),
    ):
        HookRegistry.register(executor + target, hook, HookType[kind])


def _set_up(self: Any, *args: Any, **kwargs: Any) -> None:
    from graphs import attention

    attention.install()
    _make_kernels()
    _stand_in_for_streams()


def _make_kernels() -> None:
    """What a GPU does in one kernel or collective, where the CPU's way reads values on the host."""
    from sglang.srt.distributed import parallel_state
    from sglang.srt.layers import dp_attention
    from sglang.srt.layers.moe import fused_moe_native
    from sglang.srt.lora import torch_ops

    collectives = ("all_reduce", "all_gather_into_tensor", "broadcast", "reduce_scatter_tensor")
    experts = ("moe_forward_native", "fused_moe_forward_native")
    for module, names in (
        (torch.distributed, collectives),
        (parallel_state, ("all_gather_single",)),
        (dp_attention, ("memcpy_func",)),
        (fused_moe_native, experts),
        (torch_ops, ("sgemm_lora_b_graph_fwd",)),
    ):
        for name in names:
            setattr(module, name, as_kernel(getattr(module, name)))


def _stand_in_for_streams() -> None:
    from sglang.srt.distributed import parallel_state
    from sglang.srt.model_executor.runner_backend import cuda_graph_dedup_mixin
    from sglang.srt.model_executor.runner_backend_utils.breakable_cuda_graph import (
        breakable_cuda_graph,
    )

    # torch's device module is torch.cuda in a build for CUDA, whatever device is used.
    parallel_state.get_current_device_stream_fast = torch.cpu.current_stream
    breakable_cuda_graph._is_stream_capturing = lambda stream: False
    mixin = cuda_graph_dedup_mixin.DedupedCudaGraphMixin
    mixin.build_deduped_cuda_graph = lambda self: None


def _decode_runner(model_runner: Any) -> Any:
    """SGLang's runner for CUDA, where the CPU's would compile instead."""
    from sglang.srt.model_executor.runner.decode_cuda_graph_runner import DecodeCudaGraphRunner
    from sglang.srt.runtime_context import get_flags

    get_flags().capture.enable_torch_compile = False
    return DecodeCudaGraphRunner(model_runner)


_decode_runner.__name__ = "DecodeCudaGraphRunner"


def _capture(original: Any, *, model_runner: Any) -> Any:
    """On a CPU, SGLang captures decode graphs only where it compiles."""
    from sglang.srt.model_executor.cuda_graph_config import Backend, Phase, check_cuda_graph_backend
    from sglang.srt.runtime_context import get_flags

    flags = get_flags().capture
    flags.enable_torch_compile = not check_cuda_graph_backend(Phase.DECODE, Backend.DISABLED)
    try:
        return original(model_runner=model_runner)
    finally:
        flags.enable_torch_compile = False


def _may_run(original: Any, self: Any, forward_batch: Any) -> bool:
    return control.mode() != control.EAGER and bool(original(self, forward_batch))


def _replay(original: Any, self: Any, shape_key: Any, *args: Any, **kwargs: Any) -> Any:
    """What the last replay of a shape left in its outputs, in shared buffers or not, is gone."""
    output = self._outputs[shape_key]
    for left in tree_leaves(vars(output) if hasattr(output, "next_token_logits") else output):
        if isinstance(left, torch.Tensor) and left.is_floating_point():
            left.fill_(torch.nan)
    return original(self, shape_key, *args, **kwargs)


def _count_layer_runs(self: Any, *args: Any, **kwargs: Any) -> None:
    from sglang.srt.model_loader.utils import resolve_language_model

    for layer in resolve_language_model(self.model).layers:
        layer.forward = _counted(layer.forward)  # some models call it past their layers' hooks


def _counted(forward: Any) -> Any:
    @functools.wraps(forward)
    def counted(*args: Any, **kwargs: Any) -> Any:
        global _layer_runs
        _layer_runs += 1
        return forward(*args, **kwargs)

    return counted


def _forward(original: Any, self: Any, forward_batch: Any, *args: Any, **kwargs: Any) -> Any:
    global _layer_runs
    asked = control.mode()
    faults.change(self, asked)
    _layer_runs = 0
    replays = RecordedGraph.statistics["replays"]
    line = {
        "asked": asked,
        "mode": forward_batch.forward_mode.name,
        "requests": forward_batch.batch_size,
        "tokens": len(forward_batch.input_ids),
    }
    result = original(self, forward_batch, *args, **kwargs)
    line |= {
        "graph": bool(result.can_run_graph),
        "layer_runs": _layer_runs,
        "replays": RecordedGraph.statistics["replays"] - replays,
    }
    control.log(line)
    return result
