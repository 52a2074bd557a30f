"""What single models need to run on the CPU platform: plain torch where SGLang has a GPU's kernel.

Each piece takes the place of one of SGLang's, with its arguments and its result; what a model
computes is the same. Without them Qwen2-MoE, Qwen3.5, MiniMax-M2, ERNIE 4.5 MoE, Gemma 2 and
Hunyuan do not run there, and Gemma 4's routers lose their scale (tests/server/families compares all
of them with transformers).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad


def install() -> None:
    """Put the operations in place, in this process, before a model is loaded."""
    from sglang.srt.layers import layernorm, logits_processor
    from sglang.srt.layers.moe import topk
    from sglang.srt.models import hunyuan, minimax_m2, qwen2_moe, qwen3_5

    replace(qwen2_moe, "fused_gate_sigmoid_mul_add", add_gated)
    replace(minimax_m2, "rms_sumsq_serial", mean_squares)
    replace(minimax_m2, "rms_apply_serial", apply_norms)
    replace(logits_processor, "fused_softcap", cap)
    replace(topk, "fused_topk_native", _with_flat_bias(topk.fused_topk_torch_native))
    replace(qwen3_5, "fused_sigmoid_mul", gate_in_place)
    replace(layernorm.Gemma4RMSNorm, "forward_native", gemma4_norm)
    replace(hunyuan, "RadixAttention", _with_a_row_per_token(hunyuan.RadixAttention))


def replace(module: Any, name: str, replacement: Any) -> None:
    """Replace a name that must be there already: nobody would look at a new one."""
    getattr(module, name)
    setattr(module, name, replacement)


def add_gated(hidden: Tensor, gate: Tensor, shared: Tensor, output: Tensor) -> None:
    """Add the shared expert to `output` [rows, H], each row times sigmoid(hidden @ gate).

    Args:
        hidden, shared: [rows, H], the block's input and the shared expert's output.
        gate: [H], weights of the gate.
    """
    output += (hidden.float() @ gate.float()).sigmoid()[:, None] * shared.float()


def gate_in_place(x: Tensor, gate: Tensor, *, inplace: bool = True) -> Tensor:
    """Multiply `x` [rows, heads * size] by sigmoid(gate), whose heads may lie apart."""
    gates = gate.float().reshape(x.shape).sigmoid()
    return x.copy_(x.float() * gates) if inplace else (x.float() * gates).to(x.dtype)


def gemma4_norm(self: Any, x: Tensor) -> Tensor:
    """Gemma 4's RMS norm; a router folds its scale into the weight of one that has none of its own.

    SGLang's torch leaves that weight out, its kernel does not.
    """
    rows = x.float()
    rows = rows * (rows.square().mean(-1, keepdim=True) + self.eps).rsqrt()
    shift = self.scale_shift if self.with_scale else 0.0
    return (rows * (self.weight.float() + shift)).to(x.dtype)


def mean_squares(queries: Tensor, keys: Tensor) -> Tensor:
    """Means of squares over all heads of a rank: float32, queries' rows, then keys'.

    Padded with zeros to a multiple of four, as the caller's reduction over the ranks wants them.
    """
    means = torch.cat([x.float().pow(2).mean(-1) for x in (queries, keys)])
    return pad(means, (0, -len(means) % 4))


def apply_norms(
    queries: Tensor,
    keys: Tensor,
    query_weight: Tensor,
    key_weight: Tensor,
    means: Tensor,
    ranks: int = 1,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """RMS norms of queries and keys [rows, heads * head_size], by `mean_squares` of all ranks."""
    rows = len(queries)
    scale = (means / ranks + eps).rsqrt()[:, None]
    normed_queries = queries.float() * scale[:rows] * query_weight.float()
    normed_keys = keys.float() * scale[rows : 2 * rows] * key_weight.float()
    return normed_queries.to(queries.dtype), normed_keys.to(keys.dtype)


def cap(logits: Tensor, limit: float) -> Tensor:
    """Soft-cap logits in place: limit * tanh(logits / limit)."""
    return logits.copy_(limit * torch.tanh(logits.float() / limit))


def _with_flat_bias(choose_experts: Any) -> Any:
    """SGLang's torch top-k takes a router's correction bias [experts]; ERNIE's is [1, experts]."""

    def choose(
        *args: Any, correction_bias: Tensor | None = None, **named: Any
    ) -> tuple[Tensor, Tensor]:
        flat = None if correction_bias is None else correction_bias.flatten()
        weights, ids = choose_experts(*args, correction_bias=flat, **named)
        return weights, ids

    return choose


def _with_a_row_per_token(attention: Any) -> Any:
    """Hunyuan's queries and keys come as [tokens * heads, head_size].

    A forward without a graph would take the heads beyond the number of tokens for padding.
    """

    class Attention(attention):
        def forward(self, q: Tensor, k: Tensor, v: Tensor, *rest: Any, **named: Any) -> Tensor:
            q, k = q.reshape(len(v), -1), k.reshape(len(v), -1)
            output: Tensor = super().forward(q, k, v, *rest, **named)
            return output

    return Attention
