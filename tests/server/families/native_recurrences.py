"""Plain torch in place of Triton's recurrences: gated delta nets and Mamba 2, token by token.

A family names what it needs (`Family.native`); everything else is SGLang's on the CPU platform.
Where the streams of a layer are read has nothing to do with how these are computed.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu, softplus


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    query_start_loc: Tensor,
    cache_indices: Tensor,
    has_initial_state: Tensor,
    conv_states: Tensor,
    **_: Any,
) -> Tensor:
    """Causal depthwise convolution of prompts [channels, tokens]; `conv_states` are updated."""
    output = torch.empty_like(x)
    starts = query_start_loc.tolist()
    for i, slot in enumerate(cache_indices.tolist()):
        part = x[:, starts[i] : starts[i + 1]]
        before = conv_states[slot] * bool(has_initial_state[i])
        joined = torch.cat([before, part], dim=1)
        conv_states[slot] = joined[:, -conv_states.shape[2] :]
        rows = torch.nn.functional.conv1d(joined[None], weight[:, None], bias, groups=len(x))[0]
        output[:, starts[i] : starts[i + 1]] = silu(rows)
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
    joined = torch.cat([conv_state[conv_state_indices.long()], x[:, :, None]], dim=2)
    conv_state[conv_state_indices.long()] = joined[:, :, 1:]
    output = (joined * weight).sum(2)
    return silu(output if bias is None else output + bias)


def _delta(
    state: Tensor, q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor
) -> tuple[Tensor, Tensor]:
    """One token of each row of a gated delta net.

    Args:
        state: [rows, heads, V, K].
        q, k: [rows, key heads, K], before their norm.
        v: [rows, heads, V].
        g, beta: [rows, heads].
    """
    repeat = v.shape[1] // q.shape[1]
    q, k = (
        (x * (x.square().sum(-1, keepdim=True) + 1e-6).rsqrt()).repeat_interleave(repeat, 1)
        for x in (q, k)
    )
    state = state * g.exp()[..., None, None]
    change = (v - (state @ k[..., None]).squeeze(-1)) * beta[..., None]
    state = state + change[..., None] * k[..., None, :]
    return state, (state @ q[..., None]).squeeze(-1) * q.shape[-1] ** -0.5


def _gates(a_log: Tensor, a: Tensor, b: Tensor, dt_bias: Tensor) -> tuple[Tensor, Tensor]:
    decay = -a_log.float().exp() * softplus(a.float() + dt_bias)
    return decay[None], b.float().sigmoid()[None]


def gated_delta_net() -> None:
    """Qwen3-Next: `TritonGDNKernel`, its convolutions and gates, and the gated norm."""
    backend = importlib.import_module("sglang.srt.layers.attention.linear.gdn_backend")
    backend.causal_conv1d_fn, backend.causal_conv1d_update = convolve, convolve_one
    backend.fused_gdn_gating = _gates
    kernel: Any = backend.TritonGDNKernel
    kernel.supports_packed_decode = False

    def extend(
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
        starts = query_start_loc.tolist()
        for i, slot in enumerate(cache_indices.tolist()):
            state = ssm_states[slot][None]
            for t in range(starts[i], starts[i + 1]):
                row = (x[:, t] for x in (q, k, v, g, beta))
                state, output[:, t] = _delta(state, *row)
            ssm_states[slot] = state[0]
        return output, None, None

    def decode(
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
        g, beta = _gates(A_log, a, b, dt_bias)
        slots = cache_indices.long()
        state, output = _delta(ssm_states[slots], q[0], k[0], v[0], g[0], beta[0])
        ssm_states[slots] = state
        return output[None]

    def gated_norm(self: Any, x: Tensor, gate: Tensor) -> Tensor:
        return self.weight * x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt() * silu(gate)

    kernel.extend, kernel.decode = extend, decode
    model = importlib.import_module("sglang.srt.models.qwen3_next")
    # The norm is made on "the current device", and PyTorch's current device is a card's.
    torch.get_device_module = lambda device=None: torch.cpu
    model.FusedRMSNormGated.forward = gated_norm
    model.RMSNormGated.forward = gated_norm


def _scan(
    state: Tensor, x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor
) -> tuple[Tensor, Tensor]:
    """One token of each row of Mamba 2.

    Args:
        state: [rows, heads, P, N].
        x: [rows, heads, P].
        dt: [rows, heads], after softplus.
        a, d: [heads].
        b, c: [rows, groups, N].
    """
    repeat = x.shape[1] // b.shape[1]
    b, c = b.repeat_interleave(repeat, 1), c.repeat_interleave(repeat, 1)
    state = (
        state * (dt * a).exp()[..., None, None] + (dt[..., None] * x)[..., None] * b[..., None, :]
    )
    return state, (state @ c[..., None]).squeeze(-1) + d[:, None] * x


def mamba2() -> None:
    """Nemotron H: `mamba_chunk_scan_combined`, `selective_state_update` and the convolutions."""
    mamba = importlib.import_module("sglang.srt.layers.attention.mamba.mamba")
    mamba.causal_conv1d_fn = mamba.causal_conv1d_fn_triton = convolve
    mamba.causal_conv1d_update = mamba.causal_conv1d_update_triton = convolve_one

    def prompts(
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
        dt = softplus(dt.float() + dt_bias)
        starts, states = cu_seqlens.tolist(), []
        for i in range(len(starts) - 1):
            state = x.new_zeros(1, *x.shape[2:], b.shape[3])
            if initial_states is not None:
                state = initial_states[i][None]
            for t in range(starts[i], starts[i + 1]):
                state, out[:, t] = _scan(state, x[:, t], dt[:, t], a, b[:, t], c[:, t], D)
            states.append(state[0])
        return None, torch.stack(states), None

    def tokens(
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
        slots = state_batch_indices.long()
        step = softplus(dt[..., 0].float() + dt_bias[..., 0])
        state, output = _scan(states[slots], x, step, a[:, 0, 0], b, c, d[:, 0])
        states[slots] = state
        out.copy_(output)

    mamba.mamba_chunk_scan_combined, mamba.selective_state_update = prompts, tokens
    norm = importlib.import_module("sglang.srt.layers.attention.mamba.mixer2_rms_norm_gated")
    norm.Mixer2RMSNormGated.forward_cuda = norm.Mixer2RMSNormGated.forward_native


REPLACEMENTS = {"gated_delta_net": gated_delta_net, "mamba2": mamba2}


def install(names: list[str]) -> None:
    """Replace recurrences, before the model is loaded.

    Raises:
        KeyError: a name that is none of `REPLACEMENTS`.
    """
    for name in names:
        REPLACEMENTS[name]()
