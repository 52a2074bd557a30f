"""The noise of a step in one launch (docs/method.md#randomness)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..eager.noise import GATE_COLUMN, STEP_STRIDE
from ..types import NoiseStream, StepNoise

_GATE_COLUMN = tl.constexpr(GATE_COLUMN)
_STEP_STRIDE = tl.constexpr(STEP_STRIDE)
_SLOTS = 64


@triton.jit
def _mix_block(h, k):
    k = k * 0xCC9E2D51
    k = ((k << 15) | (k >> 17)) * 0x1B873593
    h = h ^ k
    return ((h << 13) | (h >> 19)) * 5 + 0xE6546B64


@triton.jit
def _low(x):
    """The low 32 bits of an int64, uint32."""
    return (x & 0xFFFFFFFF).to(tl.uint32)


@triton.jit
def _hash32(seed, position, column):
    """MurmurHash3 of the 16 bytes seed (8), position (4), column (4): uint32."""
    h = _mix_block(tl.zeros_like(_low(column)), _low(seed))
    h = _mix_block(h, _low(seed >> 32))
    h = _mix_block(h, _low(position))
    h = _mix_block(h, _low(column))
    h = h ^ 16
    h = (h ^ (h >> 16)) * 0x85EBCA6B
    h = (h ^ (h >> 13)) * 0xC2B2AE35
    return h ^ (h >> 16)


@triton.jit(
    do_not_specialize=["candidates"],
    do_not_specialize_on_alignment=["seeds", "has_seed", "positions", "ids"],
)
def noise_kernel(
    stream_seed,  # [1] int64
    stream_step,  # [1] int64
    seeds,  # [B] int64
    has_seed,  # [B] bool
    positions,  # [B] int64
    ids,  # [B, candidates] int64
    gate,  # [B] f64
    pick,  # [B, candidates] f64
    candidates,
    SLOTS: tl.constexpr,
):
    row = tl.program_id(0)
    own = tl.load(has_seed + row)
    shared = tl.load(stream_seed) + tl.load(stream_step) * _STEP_STRIDE
    seed = tl.where(own, tl.load(seeds + row), shared)
    position = tl.where(own, tl.load(positions + row), row.to(tl.int64))
    # The last slot stands for the gate.
    slot = tl.arange(0, 2 * SLOTS)
    listed = slot < candidates
    at = row.to(tl.int64) * candidates + slot
    column = tl.load(ids + at, mask=listed, other=_GATE_COLUMN)
    h = _hash32(seed, position, column).to(tl.float64)
    tl.store(gate + row + slot * 0, h / 4294967296.0, mask=slot == 2 * SLOTS - 1)
    # As SGLang's multinomial_with_seed: finite for every hash.
    exponential = -tl.log(tl.where(h == 0.0, 1.0, h / 4294967295.0))
    exponential = tl.where(h == 0.0, 1.7976931348623157e308, exponential)
    exponential = tl.maximum(exponential, 2.3283064365386963e-10)
    tl.store(pick + at, -tl.log(exponential), mask=listed)


class NoiseWorkspace:
    """Noise of up to `batch` rows and `candidates` candidates."""

    def __init__(self, batch: int, candidates: int, device: torch.device) -> None:
        self.gate = torch.empty(batch, dtype=torch.float64, device=device)
        self.pick = torch.empty(batch * candidates, dtype=torch.float64, device=device)


def draw_noise(
    stream: NoiseStream,
    seeds: Tensor,
    has_seed: Tensor,
    positions: Tensor,
    candidate_ids: Tensor,
    workspace: NoiseWorkspace,
) -> StepNoise:
    """Noise of one step; see `Step.draw_noise`. The result lies in the workspace."""
    batch, candidates = candidate_ids.shape
    assert batch <= len(workspace.gate)
    assert batch * candidates <= len(workspace.pick)
    assert candidate_ids.is_contiguous()
    assert all(x.shape == (batch,) for x in (seeds, has_seed, positions))
    gate = workspace.gate[:batch]
    pick = workspace.pick[: batch * candidates].view(batch, candidates)
    if batch > 0:
        noise_kernel[(batch,)](
            stream_seed=stream.seed,
            stream_step=stream.step,
            seeds=seeds.contiguous(),
            has_seed=has_seed.contiguous(),
            positions=positions.contiguous(),
            ids=candidate_ids,
            gate=gate,
            pick=pick,
            candidates=candidates,
            SLOTS=_SLOTS,
            num_warps=4,
        )
    stream.step.add_(1)
    return StepNoise(gate=gate, pick=pick)
