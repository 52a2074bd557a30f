"""Recurrences of the CPU platform against float64, written as the papers have them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from led_sglang.patches.cpu import recurrences

TYPES = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)]
)
# Of two requests, which lie in slots 4 and 1 of six; then each gets one token more.
LENGTHS, SLOTS, COUNT = (3, 5), (4, 1), 6
STARTS = torch.tensor([0, 3, 8])
KEY_HEADS, HEADS, WIDE, DEEP = 2, 4, 6, 8


def draw(*shape: int, dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def near(found: Tensor, truth: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found.double(), truth, atol=tolerance, rtol=tolerance)


def sequences(prompts: Tensor, tokens: Tensor) -> list[Tensor]:
    """Each request's rows [tokens, ...] in float64, its last token behind its prompt."""
    whole = zip(prompts.double().split(LENGTHS), tokens.double(), strict=True)
    return [torch.cat([prompt, token[None]]) for prompt, token in whole]


def check(prompts: Tensor, tokens: Tensor, truth: list[Tensor], tolerance: float) -> None:
    """The outputs of two prompts and of the token behind each."""
    for found, token, true in zip(prompts.split(LENGTHS), tokens, truth, strict=True):
        near(torch.cat([found, token[None]]), true, tolerance)


@TYPES
@pytest.mark.parametrize("activation", ["silu", None])
def test_convolution(dtype: torch.dtype, tolerance: float, activation: str | None) -> None:
    channels, width = 10, 4
    x, more = draw(8, channels, dtype=dtype, seed=0), draw(2, channels, dtype=dtype, seed=1)
    weight, bias = draw(channels, width, dtype=dtype, seed=2), draw(channels, dtype=dtype, seed=3)
    states = torch.full((COUNT, channels, width - 1), 7.0)  # of requests that were here before
    slots = torch.tensor(SLOTS, dtype=torch.int32)
    prompts = recurrences.convolve(
        x.T,
        weight,
        bias,
        query_start_loc=STARTS,
        cache_indices=slots,
        has_initial_state=torch.tensor([False, False]),
        conv_states=states,
        activation=activation,
    ).T
    tokens = recurrences.convolve_one(
        more, states, weight, bias, activation, conv_state_indices=slots
    )
    truth = []
    for rows in sequences(x, more):
        padded = torch.cat([rows.new_zeros(width - 1, channels), rows])
        windows = padded.unfold(0, width, 1)  # [tokens, channels, width]
        sums = (windows * weight.double()).sum(-1) + bias.double()
        truth.append(sums * sigmoid(sums) if activation else sums)
    check(prompts, tokens, truth, tolerance)
    assert states[0].eq(7).all()


@TYPES
def test_gated_delta_net(dtype: torch.dtype, tolerance: float) -> None:
    """S <- S exp(g) (1 - beta k k^T) + beta v k^T, read by q; both of length one."""
    draws = {"q": (KEY_HEADS, DEEP), "k": (KEY_HEADS, DEEP), "v": (HEADS, WIDE)}
    draws |= {"a": (HEADS,), "b": (HEADS,)}
    prompts = {n: draw(8, *s, dtype=dtype, seed=i) for i, (n, s) in enumerate(draws.items())}
    tokens = {n: draw(2, *s, dtype=dtype, seed=9 + i) for i, (n, s) in enumerate(draws.items())}
    a_log, dt_bias = draw(HEADS, dtype=torch.float32, seed=20), draw(HEADS, dtype=dtype, seed=21)
    states = torch.zeros(COUNT, HEADS, WIDE, DEEP)
    kernel, slots = SimpleNamespace(), torch.tensor(SLOTS, dtype=torch.int32)
    g, beta = recurrences.gates(a_log, prompts["a"], prompts["b"], dt_bias)
    ours, _, _ = recurrences._delta_of_prompts(
        kernel,
        *(prompts[name][None] for name in "qkv"),
        g,
        beta,
        ssm_states=states,
        cache_indices=slots,
        query_start_loc=STARTS,
    )
    more = recurrences._delta_of_tokens(
        kernel,
        *(tokens[name][None] for name in "qkv"),
        tokens["a"],
        tokens["b"],
        A_log=a_log,
        dt_bias=dt_bias,
        ssm_states=states,
        cache_indices=slots,
    )
    truth = []
    per_request = zip(*(sequences(prompts[n], tokens[n]) for n in draws), strict=True)
    for q, k, v, a, b in per_request:
        outputs, state = [], torch.zeros(HEADS, WIDE, DEEP, dtype=torch.float64)
        for t in range(len(q)):
            decay = torch.exp(
                -a_log.double().exp() * torch.log1p(torch.exp(a[t] + dt_bias.double()))
            )
            row = []
            for head in range(HEADS):
                query, key = (x[t, head // (HEADS // KEY_HEADS)] for x in (q, k))
                query = query / (query @ query + 1e-6).sqrt()
                key = key / (key @ key + 1e-6).sqrt()
                kept = decay[head] * state[head]
                change = sigmoid(b[t, head]) * (v[t, head] - kept @ key)
                state[head] = kept + torch.outer(change, key)
                row.append(state[head] @ query / DEEP**0.5)
            outputs.append(torch.stack(row))
        truth.append(torch.stack(outputs))
    check(ours[0], more[0], truth, tolerance)


@TYPES
def test_mamba_2(dtype: torch.dtype, tolerance: float) -> None:
    """h <- exp(dt a) h + dt x b^T; y = h c + d x; the second prompt goes on from a state."""
    groups = 2
    draws = {"x": (HEADS, WIDE), "dt": (HEADS,), "b": (groups, DEEP), "c": (groups, DEEP)}
    prompts = {n: draw(8, *s, dtype=dtype, seed=i) for i, (n, s) in enumerate(draws.items())}
    tokens = {n: draw(2, *s, dtype=dtype, seed=9 + i) for i, (n, s) in enumerate(draws.items())}
    a = -draw(HEADS, dtype=torch.float32, seed=20).abs()
    d, dt_bias = (draw(HEADS, dtype=torch.float32, seed=i) for i in (21, 22))
    before = torch.stack([torch.zeros(HEADS, WIDE, DEEP), torch.ones(HEADS, WIDE, DEEP)])
    out = torch.empty(1, 8, HEADS, WIDE, dtype=dtype)
    _, last, _ = recurrences.scan_prompts(
        *(prompts[name][None] if name in draws else a for name in ("x", "dt", "a", "b", "c")),
        D=d,
        dt_bias=dt_bias,
        cu_seqlens=STARTS,
        initial_states=before,
        out=out,
    )
    states = torch.zeros(COUNT, HEADS, WIDE, DEEP)
    states[list(SLOTS)] = last
    more = torch.empty(2, HEADS, WIDE, dtype=dtype)

    def expanded(values: Tensor) -> Tensor:
        return values[..., None].expand(*values.shape, WIDE)

    recurrences.scan_tokens(
        states,
        tokens["x"],
        expanded(tokens["dt"]),
        expanded(a)[..., None].expand(HEADS, WIDE, DEEP),
        tokens["b"],
        tokens["c"],
        expanded(d),
        dt_bias=expanded(dt_bias),
        state_batch_indices=torch.tensor(SLOTS, dtype=torch.int32),
        out=more,
    )
    truth = []
    per_request = zip(*(sequences(prompts[n], tokens[n]) for n in draws), before, strict=True)
    for x, dt, b, c, begun in per_request:
        outputs, state = [], begun.double()
        for t in range(len(x)):
            step = torch.log1p(torch.exp(dt[t] + dt_bias.double()))
            row = []
            for head in range(HEADS):
                into, out_of = (m[t, head // (HEADS // groups)] for m in (b, c))
                kept = torch.exp(step[head] * a[head].double()) * state[head]
                state[head] = kept + torch.outer(step[head] * x[t, head], into)
                row.append(state[head] @ out_of + d[head].double() * x[t, head])
            outputs.append(torch.stack(row))
        truth.append(torch.stack(outputs))
    check(out[0], more, truth, tolerance)


@TYPES
@pytest.mark.parametrize("activation", ["silu", "swish", "sigmoid"])
def test_gated_norm(dtype: torch.dtype, tolerance: float, activation: str) -> None:
    x, gate = (draw(5, 3, 16, dtype=dtype, seed=i) for i in range(2))
    norm: Any = SimpleNamespace(
        weight=draw(16, dtype=dtype, seed=2), eps=1e-6, activation=activation
    )
    exact, open_ = x.double(), sigmoid(gate.double())
    truth = exact / (exact.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight.double()
    truth = truth * (open_ if activation == "sigmoid" else gate.double() * open_)
    found = recurrences.gated_norm(norm, x, gate)
    assert found.dtype == dtype
    near(found, truth, tolerance)
