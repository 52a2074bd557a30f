"""Plain torch in place of the operations that SGLang has for a GPU alone, layer by layer.

A family names what it needs (`Family.native`); everything else runs as SGLang's CPU path runs it.
Where the streams of a layer are read has nothing to do with how these operations are computed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from families.native_recurrences import gated_delta_net, mamba2


def install(names: list[str]) -> None:
    """Replace operations, before the model is loaded.

    Raises:
        KeyError: a name that is none of `REPLACEMENTS`.
    """
    for name in names:
        REPLACEMENTS[name]()


def _module(path: str) -> Any:
    return importlib.import_module(f"sglang.srt.{path}")


def shared_expert_gate() -> None:
    """Qwen2-MoE, Qwen3-Next: `fused_gate_sigmoid_mul_add` is a Triton kernel."""

    def add(hidden: Tensor, weight: Tensor, shared: Tensor, output: Tensor) -> None:
        output += (hidden @ weight).sigmoid()[:, None] * shared

    _module("models.qwen2_moe").fused_gate_sigmoid_mul_add = add


def query_key_norm() -> None:
    """MiniMax-M2: the norm over all heads of queries and keys is two Triton kernels.

    The means of squares, [2 rows] padded to four, are summed over the ranks between the two.
    """

    def squares(q: Tensor, k: Tensor) -> Tensor:
        sums = torch.cat([x.float().pow(2).mean(-1) for x in (q, k)])
        return torch.nn.functional.pad(sums, (0, -len(sums) % 4))

    def apply(
        q: Tensor,
        k: Tensor,
        q_weight: Tensor,
        k_weight: Tensor,
        sums: Tensor,
        ranks: int,
        eps: float,
    ) -> tuple[Tensor, Tensor]:
        scale = (sums / ranks + eps).rsqrt()[:, None]
        rows = len(q)
        return q * scale[:rows] * q_weight, k * scale[rows : 2 * rows] * k_weight

    minimax = _module("models.minimax_m2")
    minimax.rms_sumsq_serial, minimax.rms_apply_serial = squares, apply


def router_bias() -> None:
    """ERNIE 4.5 MoE: its correction bias is [1, experts], the native top-k takes [experts]."""
    topk = _module("layers.moe.topk")
    native = topk.fused_topk_native

    def with_flat_bias(
        *args: Any, correction_bias: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        flat = None if correction_bias is None else correction_bias.flatten()
        result: tuple[Tensor, Tensor] = native(*args, correction_bias=flat, **kwargs)
        return result

    topk.fused_topk_native = with_flat_bias


def rows_of_queries() -> None:
    """Hunyuan: queries and keys come as [tokens * heads, size]; torch attention counts tokens."""
    attention = _module("layers.radix_attention").RadixAttention
    forward = attention.forward

    def one_row_a_token(
        self: Any, q: Tensor, k: Tensor, v: Tensor, *args: Any, **named: Any
    ) -> Any:
        q, k = q.reshape(len(v), -1), k.reshape(len(v), -1)
        return forward(self, q, k, v, *args, **named)

    attention.forward = one_row_a_token


def triton_attention() -> None:
    """Exaone 4 with windows: the launch asks for one of three backends of a GPU."""
    registry = _module("layers.attention.attention_registry")
    registry.register_attention_backend("triton")(
        lambda runner: registry.ATTENTION_BACKENDS["torch_native"](runner)
    )


def soft_cap() -> None:
    """Gemma 2: the cap of the final logits is a Triton kernel."""

    def cap(logits: Tensor, limit: float) -> Tensor:
        return logits.copy_(limit * torch.tanh(logits / limit))

    _module("layers.logits_processor").fused_softcap = cap


REPLACEMENTS: dict[str, Callable[[], None]] = {
    "shared_expert_gate": shared_expert_gate,
    "query_key_norm": query_key_norm,
    "router_bias": router_bias,
    "rows_of_queries": rows_of_queries,
    "triton_attention": triton_attention,
    "soft_cap": soft_cap,
    "gated_delta_net": gated_delta_net,
    "mamba2": mamba2,
}
