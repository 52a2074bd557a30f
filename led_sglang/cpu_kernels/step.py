"""LED step on a CPU in a handful of compiled calls, where the torch path takes hundreds.

On a small model the calls are what a step costs. Same interface as torch_impl.py; on the CPU the
tensors' memory is read as it lies.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import torch
from torch import Tensor

from led_sglang.kernels.torch_impl import refuse_what_is_missing
from led_sglang.kernels.torch_lse import latent_partials
from led_sglang.kernels.types import (
    FinalPosterior,
    LedLimits,
    LedResult,
    LedRows,
    LmHeadShard,
    NoiseStream,
    StepNoise,
)

from .combine import combine
from .gate import gate_rows
from .jit import compile_for
from .noise import draw
from .softmax import LARGEST_HEAD, fold, head_partials, posterior

_BF16 = torch.bfloat16
_F32, _F64, _I64, _BOOL = numba.float32, numba.float64, numba.int64, numba.boolean
_BITS = numba.uint16


@cache
def compile_all() -> None:
    """Compile every function for the types it is called with, once; Numba keeps them on disk."""
    inputs: tuple[Any, ...] = (_F32[:, ::1], _F32[::1], _I64[::1], _F32[::1], _BOOL)
    outputs: tuple[Any, ...] = (_I64[:, ::1], _F32[:, ::1], _F32[::1], _F32[::1])
    compile_for(posterior, *inputs, *outputs)
    inputs = (_I64[::1], _I64[::1], _I64[::1], _BOOL[::1], _I64[::1], _I64[:, ::1])
    compile_for(draw, *inputs, _F64[::1], _F64[:, ::1])
    inputs = (_F32[::1], _F32[::1], _F64[::1], _I64[::1], _F32[::1], *(_BOOL[::1],) * 5)
    inputs += (_I64[::1], _BOOL[::1])
    outputs = (_BOOL[::1], _F64[::1], _BOOL[::1], _I64[::1], _I64[::1], _I64[::1])
    compile_for(gate_rows, *inputs, *outputs, _I64)
    inputs = (_BITS[:, ::1], _F32[::1], _BITS[:, ::1], _I64[::1], _I64[::1], _I64[:, ::1], _I64)
    compile_for(head_partials, *inputs, _F32[:, ::1])
    compile_for(fold, _F32[:, ::1], _F32[::1], _F32[::1], _F64[::1])
    inputs = (_F32[:, :, ::1], _I64[:, ::1], _F32[:, ::1], _F64[:, ::1], _BOOL[::1], _F64[::1])
    inputs += (_BOOL[::1], _I64[::1], _F32[::1], _BOOL[::1], _BOOL[::1], _BOOL)
    outputs = (_I64[::1], _I64[::1], _F32[:, :, ::1], _F32[:, ::1], _F32[::1])
    compile_for(combine, *inputs, *outputs)


def _memory(tensor: Tensor) -> Any:
    """The tensor as a C-contiguous array: a view, unless its rows lie apart."""
    return tensor.contiguous().numpy()


def final_posterior(logits: Tensor, rows: LedRows, limits: LedLimits) -> FinalPosterior:
    """Steps 1 and 2; see `torch_impl.final_posterior`. logits: fp32."""
    batch, vocab = logits.shape
    k = min(limits.candidates, vocab)
    final = FinalPosterior(
        ids=torch.empty(batch, k, dtype=torch.int64),
        logprobs=torch.empty(batch, k),
        p1=torch.empty(batch),
        entropy=torch.empty(batch),
    )
    posterior(
        _memory(logits),
        _memory(rows.temperature),
        _memory(rows.candidates),
        _memory(rows.candidate_top_p),
        limits.entropy,
        final.ids.numpy(),
        final.logprobs.numpy(),
        final.p1.numpy(),
        final.entropy.numpy(),
    )
    return final


def draw_noise(
    stream: NoiseStream, seeds: Tensor, has_seed: Tensor, positions: Tensor, candidate_ids: Tensor
) -> StepNoise:
    """The randomness of a step; see `noise.draw_noise`."""
    noise = StepNoise(
        gate=torch.empty(len(candidate_ids), dtype=torch.float64),
        pick=torch.empty(candidate_ids.shape, dtype=torch.float64),
    )
    draw(
        stream.seed.numpy(),
        stream.step.numpy(),
        _memory(seeds),
        _memory(has_seed),
        _memory(positions),
        _memory(candidate_ids),
        noise.gate.numpy(),
        noise.pick.numpy(),
    )
    return noise


def led_step(
    final: FinalPosterior,
    latents: Tensor,
    rows: LedRows,
    limits: LedLimits,
    head: LmHeadShard,
    noise: StepNoise,
    *,
    final_norm: Callable[[Tensor], Tensor] | None = None,
    all_gather: Callable[[Tensor], Tensor] | None = None,
) -> LedResult:
    """Steps 3 to 7; see `torch_impl.led_step`."""
    refuse_what_is_missing(latents, limits, final_norm)
    batch, k = final.ids.shape
    layers = limits.depth - 1
    explored = torch.empty(batch, dtype=torch.bool)
    probability = torch.empty(batch, dtype=torch.float64).numpy()
    projected = torch.empty(batch, dtype=torch.bool).numpy()
    live_rows = torch.empty(3, batch * layers, dtype=torch.int64)
    request, below_final, place = live_rows.numpy()
    depth, greedy = _memory(rows.depth), _memory(rows.greedy)
    live = gate_rows(
        _memory(final.p1),
        _memory(final.entropy),
        _memory(noise.gate),
        _memory(rows.gate),
        _memory(rows.gate_value),
        greedy,
        _memory(rows.random_gate),
        _memory(rows.owns),
        _memory(rows.thinks),
        _memory(rows.projects),
        depth,
        _memory(rows.release_layers),
        explored.numpy(),
        probability,
        projected,
        request,
        below_final,
        place,
        layers,
    )
    gathered = final.logprobs.new_empty(1, batch * layers if live else 0, k + 2)
    if layers and all_gather is not None:
        gathered = final.logprobs.new_zeros(1, batch * layers, k + 2)
        gathered[:, :, 0].fill_(-torch.inf)
    if live:
        _project(final, latents, rows, limits, head, live_rows[:, :live], gathered[0], final_norm)
    if layers and all_gather is not None:
        gathered = all_gather(gathered[0])
    result = LedResult(
        token_ids=torch.empty(batch, dtype=torch.int64),
        explored=explored,
        depth=torch.empty(batch, dtype=torch.int64),
        p1=final.p1,
        entropy=final.entropy,
        candidate_ids=final.ids,
        layer_probs=torch.empty(batch, layers + 1, k),
        behaviour_probs=torch.empty(batch, k),
        behaviour_logprob=torch.empty(batch),
        projected_rows=live,
    )
    combine(
        _memory(gathered),
        _memory(final.ids),
        _memory(final.logprobs),
        _memory(noise.pick),
        explored.numpy(),
        probability,
        projected,
        depth,
        _memory(rows.floor),
        _memory(rows.normalize_layers),
        greedy,
        limits.behaviour,
        result.token_ids.numpy(),
        result.depth.numpy(),
        result.layer_probs.numpy(),
        result.behaviour_probs.numpy(),
        result.behaviour_logprob.numpy(),
    )
    return result


def _project(
    final: FinalPosterior,
    latents: Tensor,
    rows: LedRows,
    limits: LedLimits,
    head: LmHeadShard,
    live_rows: Tensor,
    partials: Tensor,
    final_norm: Callable[[Tensor], Tensor] | None,
) -> None:
    """Step 3 on this rank's columns: fills the live rows' places of partials [B * (D - 1), K + 2].

    live_rows: [3, M] int64, as `gate_rows` leaves them: request, layer below the final, place.
    """
    request, below_final, place = live_rows
    hidden = latents[request, latents.shape[1] - 1 - below_final]
    if limits.final_norm and final_norm is not None:
        wants_norm = rows.final_norm.index_select(0, request)[:, None]
        hidden = torch.where(wants_norm, final_norm(hidden), hidden)
    if _is_small(head, hidden):
        assert head.weight is not None
        head_partials(
            _memory(hidden.view(torch.uint16)),
            _memory(rows.temperature),
            _memory(head.weight[: head.valid].view(torch.uint16)),
            request.numpy(),
            place.numpy(),
            _memory(final.ids),
            head.vocab_start,
            partials.numpy(),
        )
        return
    temperature = rows.temperature.index_select(0, request)
    peak, total, logits = latent_partials(
        hidden,
        temperature,
        final.ids.index_select(0, request),
        head,
        sums=_CompiledSums(temperature),
    )
    partials.index_copy_(0, place, torch.cat([peak[:, None], total[:, None], logits], dim=1))


class _CompiledSums:
    """`torch_lse.Sums`, one call a block."""

    def __init__(self, temperature: Tensor) -> None:
        self._temperature = temperature
        self._peak = torch.full_like(temperature, -torch.inf)
        self._total = torch.zeros_like(temperature, dtype=torch.float64)

    def add(self, at: slice, z: Tensor) -> None:
        part = self._temperature[at], self._peak[at], self._total[at]
        fold(_memory(z), *(rows.numpy() for rows in part))

    def result(self) -> tuple[Tensor, Tensor]:
        return self._peak / self._temperature, self._total.float()


def _is_small(head: LmHeadShard, hidden: Tensor) -> bool:
    """Whether `head_partials` multiplies this head: bf16 factors, nothing between z and logits."""
    weight = head.weight
    return (
        weight is not None
        and head.logit_scale is None
        and head.softcap is None
        and weight.numel() <= LARGEST_HEAD
        and weight.dtype == hidden.dtype == _BF16
        and weight.is_contiguous()
    )
