"""The noise of a step (docs/method.md#randomness): drawn where the candidates are found."""

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


@triton.jit
def gate_noise(seed, position):
    """The gate's uniform number in [0, 1), f64."""
    h = _hash32(seed, position, tl.full([], _GATE_COLUMN, tl.int64))
    return h.to(tl.float64) / 4294967296.0


@triton.jit
def pick_noise(seed, position, ids):
    """Gumbel noise of candidates, f64: in fewer bits, other draws than other implementations'."""
    h = _hash32(seed, position, ids).to(tl.float64)
    # As SGLang's multinomial_with_seed: finite for every hash.
    exponential = -tl.log(tl.where(h == 0.0, 1.0, h / 4294967295.0))
    exponential = tl.where(h == 0.0, 1.7976931348623157e308, exponential)
    exponential = tl.maximum(exponential, 2.3283064365386963e-10)
    return -tl.log(exponential)


@triton.jit
def noise_origin(row, stream_seed, stream_step, seeds, has_seed, positions):
    """(seed, position) that a row's noise is a hash of."""
    own = tl.load(has_seed + row)
    shared = tl.load(stream_seed) + tl.load(stream_step) * _STEP_STRIDE
    seed = tl.where(own, tl.load(seeds + row), shared)
    position = tl.where(own, tl.load(positions + row), row.to(tl.int64))
    return seed, position


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
    seed, position = noise_origin(row, stream_seed, stream_step, seeds, has_seed, positions)
    tl.store(gate + row, gate_noise(seed, position))
    slot = tl.arange(0, SLOTS)
    at = row.to(tl.int64) * candidates + slot
    column = tl.load(ids + at, mask=slot < candidates, other=0)
    tl.store(pick + at, pick_noise(seed, position, column), mask=slot < candidates)


class NoiseWorkspace:
    """Noise of up to `batch` rows and `candidates` candidates."""

    def __init__(self, batch: int, candidates: int, device: torch.device) -> None:
        self.gate = torch.empty(batch, dtype=torch.float64, device=device)
        self.pick = torch.empty(batch * candidates, dtype=torch.float64, device=device)

    def of(self, batch: int, candidates: int) -> StepNoise:
        """The part that a step of this size uses."""
        pick = self.pick[: batch * candidates].view(batch, candidates)
        return StepNoise(gate=self.gate[:batch], pick=pick)


def draw_noise(
    stream: NoiseStream,
    seeds: Tensor,
    has_seed: Tensor,
    positions: Tensor,
    candidate_ids: Tensor,
    workspace: NoiseWorkspace,
) -> StepNoise:
    """Noise of one step, apart from the step; see `Step.draw_noise`. It lies in the workspace."""
    batch, candidates = candidate_ids.shape
    assert candidate_ids.is_contiguous()
    assert all(x.shape == (batch,) for x in (seeds, has_seed, positions))
    noise = workspace.of(batch, candidates)
    if batch > 0:
        noise_kernel[(batch,)](
            stream.seed,
            stream.step,
            seeds.contiguous(),
            has_seed.contiguous(),
            positions.contiguous(),
            candidate_ids,
            noise.gate,
            noise.pick,
            candidates,
            SLOTS=_SLOTS,
            num_warps=4,
        )
    stream.step.add_(1)
    return noise
