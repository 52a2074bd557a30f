"""Noise from one hash, of the request's seed or of the server's own stream, in plain torch.

See docs/method.md#randomness.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..types import NoiseStream, StepNoise

_MASK = 0xFFFFFFFF

# Column hashed for the gate ("LEDG" in ASCII): far above any vocabulary, so it never meets a pick.
GATE_COLUMN = 0x4C454447

# Seeds of consecutive steps of a stream lie 2**64 / golden ratio apart (int64, wrapping).
STEP_STRIDE = 0x9E3779B97F4A7C15 - 2**64


def _rotate_left(x: Tensor, bits: int) -> Tensor:
    """In the low 32 bits; what lies above them is left over."""
    return (x << bits) | (x >> (32 - bits))


def _mix_block(h: Tensor | int, block: Tensor) -> Tensor:
    # int64 products wrap modulo 2**64, which leaves their low 32 bits right.
    k = (block * 0xCC9E2D51) & _MASK
    k = (_rotate_left(k, 15) * 0x1B873593) & _MASK
    return (_rotate_left(h ^ k, 13) * 5 + 0xE6546B64) & _MASK


def hash32(seed: Tensor, position: Tensor, column: Tensor) -> Tensor:
    """MurmurHash3 (32 bit, hash seed 0) of the 16 bytes seed (8), position (4), column (4).

    Bit-identical to SGLang's `murmur_hash32` (kernels/ops/sampling/murmur_hash.py), but in plain
    torch, so it runs on any device.

    Args:
        seed, position, column: int64, broadcast against each other; position and column are taken
            modulo 2**32, seed as two's complement.

    Returns:
        int64 holding values in [0, 2**32).
    """
    h = _mix_block(0, seed & _MASK)
    h = _mix_block(h, (seed >> 32) & _MASK)
    h = _mix_block(h, position & _MASK)
    h = _mix_block(h, column & _MASK)
    h = h ^ 16
    h = ((h ^ (h >> 16)) * 0x85EBCA6B) & _MASK
    h = ((h ^ (h >> 13)) * 0xC2B2AE35) & _MASK
    return h ^ (h >> 16)


def gumbel_from_hash(h: Tensor) -> Tensor:
    """Gumbel(0, 1) noise, float64 and finite, as SGLang's `multinomial_with_seed` makes it.

    Args:
        h: int64 values in [0, 2**32), any shape.
    """
    x = h.to(torch.float64) / _MASK
    exponential = -x.log().clamp(min=torch.finfo(torch.float64).min, max=-(2.0**-32))
    return -exponential.log()


def uniform_from_hash(h: Tensor) -> Tensor:
    """Uniform float64 in [0, 1) from int64 values in [0, 2**32), any shape."""
    return h.to(torch.float64) / 2.0**32


def seeded_noise(seed: Tensor, position: Tensor, candidate_ids: Tensor) -> StepNoise:
    """Noise that depends on (seed, position, vocabulary id) only, not on the batch.

    Args:
        seed, position: [B] int64.
        candidate_ids: [B, K] int64 vocabulary ids.
    """
    columns = torch.nn.functional.pad(candidate_ids, (0, 1), value=GATE_COLUMN)
    hashed = hash32(seed[:, None], position[:, None], columns)
    return StepNoise(gate=uniform_from_hash(hashed[:, -1]), pick=gumbel_from_hash(hashed[:, :-1]))


def draw_noise(
    stream: NoiseStream, seeds: Tensor, has_seed: Tensor, positions: Tensor, candidate_ids: Tensor
) -> StepNoise:
    """See `Step.draw_noise`.

    Rows with a seed get `seeded_noise`. The others share the stream: the same hash, with the
    stream's seed of this step for a seed and the row's index for a position. Nothing depends on
    what the gates will say, so ranks with equal streams draw equal noise; and all state is on the
    device, so a replayed CUDA graph draws fresh noise.
    """
    seed, position = noise_origins(stream, seeds, has_seed, positions)
    return seeded_noise(seed, position, candidate_ids)


def noise_origins(
    stream: NoiseStream, seeds: Tensor, has_seed: Tensor, positions: Tensor
) -> tuple[Tensor, Tensor]:
    """Seeds and positions [B] int64 that `draw_noise` hashes; the stream moves on by one."""
    row = torch.arange(len(seeds), device=seeds.device)
    seed = torch.where(has_seed, seeds, stream.seed + stream.step * STEP_STRIDE)
    stream.step.add_(1)
    return seed, torch.where(has_seed, positions, row)
