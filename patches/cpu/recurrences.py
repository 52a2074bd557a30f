"""Gated delta nets, Mamba 2 and short convolutions on the CPU platform: plain torch, in float32.

Each piece takes the place of one of SGLang's Triton kernels, with its arguments and its result.
What only a GPU's server asks of them (speculative verification, snapshots of states) is not here.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv1d, silu, softplus

from led_sglang.patches.cpu.operations import replace


def install_layers() -> None:
    """Put what the layers need in place, in this process, before a model is built."""
    from sglang.srt.models import qwen3_5, qwen3_next

    for norm in (qwen3_next.FusedRMSNormGated, qwen3_next.RMSNormGated, qwen3_5.RMSNormGated):
        replace(norm, "forward", gated_norm)
    # The norm is made on "the current device", which of a PyTorch for CUDA is a card.
    replace(qwen3_next, "torch", _TorchOfCpu("torch"))


def install_kernels() -> None:
    """Put both recurrences in place, before a model runs; SGLang's runner must be imported."""
    from sglang.srt.layers.attention.linear import gdn_backend
    from sglang.srt.layers.attention.mamba import mamba, mixer2_rms_norm_gated
    from sglang.srt.models import lfm2, lfm2_moe

    for module in (gdn_backend, lfm2, lfm2_moe):
        replace(module, "causal_conv1d_fn", convolve)
        replace(module, "causal_conv1d_update", convolve_one)
    replace(gdn_backend, "fused_gdn_gating", gates)
    kernel = gdn_backend.TritonGDNKernel
    replace(kernel, "supports_packed_decode", False)
    replace(kernel, "extend", _delta_of_prompts)
    replace(kernel, "decode", _delta_of_tokens)
    replace(mamba, "mamba_chunk_scan_combined", scan_prompts)
    replace(mamba, "selective_state_update", scan_tokens)
    mixer = mixer2_rms_norm_gated.Mixer2RMSNormGated
    replace(mixer, "forward_cuda", mixer.forward_native)
    for suffix in ("", "_triton"):  # on a CPU, SGLang binds none of these names
        setattr(mamba, f"causal_conv1d_fn{suffix}", convolve)
        setattr(mamba, f"causal_conv1d_update{suffix}", convolve_one)


class _TorchOfCpu(ModuleType):
    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def get_device_module(self, device: Any = None) -> Any:
        return torch.cpu


def gated_norm(self: Any, x: Tensor, gate: Tensor) -> Tensor:
    """The RMS norm of `x` [..., H] times an activation of `gate`, of the same shape."""
    rows = x.float()
    normed = rows * (rows.square().mean(-1, keepdim=True) + self.eps).rsqrt() * self.weight.float()
    gated = gate.float().sigmoid() if self.activation == "sigmoid" else silu(gate.float())
    return (normed * gated).to(x.dtype)


def _requests(query_start_loc: Tensor, slots: Tensor) -> Iterator[tuple[int, int, slice]]:
    """Number, slot and tokens of each request of a prefill batch."""
    starts = query_start_loc.tolist()
    for i, slot in enumerate(slots.tolist()):
        yield i, slot, slice(starts[i], starts[i + 1])


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    query_start_loc: Tensor,
    cache_indices: Tensor,
    has_initial_state: Tensor,
    conv_states: Tensor,
    activation: str | None = "silu",
    **_: Any,
) -> Tensor:
    """Causal depthwise convolution of prompts [channels, tokens] with `weight` [channels, width].

    `conv_states` [slots, channels, width - 1] hold what came before, and are updated.
    """
    output = torch.empty_like(x)
    for i, slot, tokens in _requests(query_start_loc, cache_indices):
        before = conv_states[slot].to(x.dtype) * bool(has_initial_state[i])
        joined = torch.cat([before, x[:, tokens]], dim=1)
        conv_states[slot] = joined[:, -conv_states.shape[2] :]
        rows = conv1d(joined[None], weight.to(x.dtype)[:, None], bias, groups=len(x))[0]
        output[:, tokens] = silu(rows) if activation else rows
    return output


def convolve_one(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    *,
    conv_state_indices: Tensor,
    **_: Any,
) -> Tensor:
    """The same for one token of each request, [rows, channels]."""
    slots = conv_state_indices.long()
    joined = torch.cat([conv_state[slots].to(x.dtype), x[:, :, None]], dim=2)
    conv_state[slots] = joined[:, :, 1:].to(conv_state.dtype)
    output = (joined * weight).sum(2)
    output = output if bias is None else output + bias
    return (silu(output) if activation else output).to(x.dtype)


def gates(a_log: Tensor, a: Tensor, b: Tensor, dt_bias: Tensor) -> tuple[Tensor, Tensor]:
    """Log of the decay and strength of the update, each [1, tokens, heads], float32."""
    decay = -a_log.float().exp() * softplus(a.float() + dt_bias.float())
    return decay[None], b.float().sigmoid()[None]


def delta(
    state: Tensor, q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor
) -> tuple[Tensor, Tensor]:
    """One token of each row of a gated delta net.

    Args:
        state: [rows, heads, V, K].
        q, k: [rows, key heads, K], before their norm.
        v: [rows, heads, V].
        g, beta: [rows, heads], see `gates`.

    Returns:
        The next state and the output [rows, heads, V], float32.
    """
    repeat = v.shape[1] // q.shape[1]
    q, k = (
        (x * (x.square().sum(-1, keepdim=True) + 1e-6).rsqrt()).repeat_interleave(repeat, 1)
        for x in (q.float(), k.float())
    )
    state = state.float() * g.exp()[..., None, None]
    change = (v.float() - (state @ k[..., None]).squeeze(-1)) * beta[..., None]
    state = state + change[..., None] * k[..., None, :]
    return state, (state @ q[..., None]).squeeze(-1) * q.shape[-1] ** -0.5


def _delta_of_prompts(
    self: Any,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    *,
    ssm_states: Tensor,
    cache_indices: Tensor,
    query_start_loc: Tensor,
    **_: Any,
) -> tuple[Tensor, None, None]:
    output = torch.empty_like(v)
    for _i, slot, tokens in _requests(query_start_loc, cache_indices):
        state = ssm_states[slot][None]
        for t in range(tokens.start, tokens.stop):
            state, output[:, t] = delta(state, *(x[:, t] for x in (q, k, v, g, beta)))
        ssm_states[slot] = state[0]
    return output, None, None


def _delta_of_tokens(
    self: Any,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    A_log: Tensor,
    dt_bias: Tensor,
    ssm_states: Tensor,
    cache_indices: Tensor,
    **_: Any,
) -> Tensor:
    g, beta = gates(A_log, a, b, dt_bias)
    slots = cache_indices.long()
    state, output = delta(ssm_states[slots], q[0], k[0], v[0], g[0], beta[0])
    ssm_states[slots] = state.to(ssm_states.dtype)
    return output[None].to(v.dtype)


def scan(
    state: Tensor, x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor
) -> tuple[Tensor, Tensor]:
    """One token of each row of Mamba 2.

    Args:
        state: [rows, heads, P, N].
        x: [rows, heads, P].
        dt: [rows, heads], the time step after softplus.
        a, d: [heads].
        b, c: [rows, groups, N].

    Returns:
        The next state and the output [rows, heads, P], float32.
    """
    repeat = x.shape[1] // b.shape[1]
    b, c = (m.float().repeat_interleave(repeat, 1) for m in (b, c))
    change = (dt[..., None] * x.float())[..., None] * b[..., None, :]
    state = state.float() * (dt * a.float()).exp()[..., None, None] + change
    return state, (state @ c[..., None]).squeeze(-1) + d.float()[:, None] * x.float()


def scan_prompts(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    *,
    D: Tensor,
    dt_bias: Tensor,
    cu_seqlens: Tensor,
    initial_states: Tensor | None,
    out: Tensor,
    **_: Any,
) -> tuple[None, Tensor, None]:
    """Mamba 2 over prompts [1, tokens, ...]: fills `out`, and returns the last states."""
    dt = softplus(dt.float() + dt_bias.float())
    starts, states = cu_seqlens.tolist(), []
    for i in range(len(starts) - 1):
        state = x.new_zeros(1, *x.shape[2:], b.shape[3], dtype=torch.float32)
        if initial_states is not None:
            state = initial_states[i][None]
        for t in range(starts[i], starts[i + 1]):
            state, out[:, t] = scan(state, x[:, t], dt[:, t], a, b[:, t], c[:, t], D)
        states.append(state[0])
    return None, torch.stack(states), None


def scan_tokens(
    states: Tensor,
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor,
    *,
    dt_bias: Tensor,
    state_batch_indices: Tensor,
    out: Tensor,
    **_: Any,
) -> None:
    """Mamba 2 for one token of each row; `a`, `dt` and `d` come expanded over a head's channels."""
    slots = state_batch_indices.long()
    step = softplus(dt[..., 0].float() + dt_bias[..., 0].float())
    state, output = scan(states[slots], x, step, a[:, 0, 0], b, c, d[:, 0])
    states[slots] = state.to(states.dtype)
    out.copy_(output)
