"""Lets experts and attention spread over ranks run on CPU: what SGLang's torch paths lack for it.

It copies rows between ranks with a Triton kernel, and marks experts of other ranks by -1, which its
torch experts do not know.
"""

from __future__ import annotations

from typing import Any

import torch
import unpinned_plugin
from torch import Tensor
from torch.nn.functional import linear, silu


def register() -> None:
    unpinned_plugin.register()
    from sglang.srt.distributed.parallel_state import GroupCoordinator
    from sglang.srt.layers import dp_attention
    from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
    from sglang.srt.layers.moe import fused_moe_native
    from sglang.srt.layers.moe.token_dispatcher import standard

    dp_attention.memcpy_func = dp_attention.memcpy_cpu
    # The length of a padding row.
    TorchNativeAttnBackend.get_cuda_graph_seq_len_fill_value = lambda self: 1
    # Keeps padding from the experts; what they make of it is dropped anyway.
    standard.mask_dp_pad_moe_topk_ids = lambda topk_ids: None

    # On CPU the operation that wraps this one for torch.compile is not registered.
    GroupCoordinator.all_gather_into_tensor = GroupCoordinator._all_gather_into_tensor
    # The others are NCCL's alone.
    GroupCoordinator.reduce_scatter_tensor = _reduce_scatter
    GroupCoordinator.reduce_scatterv = GroupCoordinator._deterministic_reduce_scatterv
    GroupCoordinator.all_gatherv = _all_gather_uneven
    fused_moe_native.moe_forward_native = _experts_of_this_rank


def _experts_of_this_rank(layer: Any, x: Tensor, topk_output: Any, config: Any) -> Tensor:
    weights, ids, _ = topk_output
    output = torch.zeros_like(x)
    for expert in range(len(layer.w13_weight)):
        weight = (weights * (ids == expert)).sum(1, keepdim=True)
        rows = weight[:, 0] != 0
        gate, up = linear(x[rows], layer.w13_weight[expert]).chunk(2, dim=-1)
        output[rows] += weight[rows] * linear(silu(gate) * up, layer.w2_weight[expert])
    return output


def _reduce_scatter(self: Any, output: Tensor, input: Tensor) -> None:
    total = self.all_reduce(input.clone())
    output.copy_(total.view(self.world_size, *output.shape)[self.rank_in_group])


def _all_gather_uneven(
    self: Any, input_: Tensor, sizes: list[int] | None = None, output: Tensor | None = None
) -> Tensor:
    sizes = sizes or [len(input_)] * self.world_size
    gathered = input_.new_zeros(sum(sizes), *input_.shape[1:])
    gathered.split(sizes)[self.rank_in_group].copy_(input_)
    gathered = self.all_reduce(gathered)
    return gathered if output is None else output.copy_(gathered)
