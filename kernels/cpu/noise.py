"""Noise of a step on a CPU, compiled (docs/method.md#randomness)."""

from __future__ import annotations

import numpy as np

from ..eager.noise import GATE_COLUMN, STEP_STRIDE
from .jit import compiled

_MASK = np.uint64(0xFFFFFFFF)
_LARGEST_HASH = float(0xFFFFFFFF)
_LEAST_LOG = float(np.finfo(np.float64).min)


@compiled
def _rotate_left(x, bits):
    return ((x << np.uint64(bits)) | (x >> np.uint64(32 - bits))) & _MASK


@compiled
def _mix_block(h, block):
    k = ((block & _MASK) * np.uint64(0xCC9E2D51)) & _MASK
    k = (_rotate_left(k, 15) * np.uint64(0x1B873593)) & _MASK
    return (_rotate_left(h ^ k, 13) * np.uint64(5) + np.uint64(0xE6546B64)) & _MASK


@compiled
def _finish(h):
    h ^= np.uint64(16)
    h = ((h ^ (h >> np.uint64(16))) * np.uint64(0x85EBCA6B)) & _MASK
    h = ((h ^ (h >> np.uint64(13))) * np.uint64(0xC2B2AE35)) & _MASK
    return h ^ (h >> np.uint64(16))


@compiled
def draw(
    stream_seed,  # [1] int64
    stream_step,  # [1] int64, moved on by one
    seeds,  # [B] int64
    has_seed,  # [B] bool
    positions,  # [B] int64
    ids,  # [B, K] int64
    gate,  # out [B] f64
    pick,  # out [B, K] f64
):
    shared = stream_seed[0] + stream_step[0] * np.int64(STEP_STRIDE)
    stream_step[0] += 1
    for b in range(ids.shape[0]):
        seed = np.uint64(seeds[b] if has_seed[b] else shared)
        position = np.uint64(positions[b] if has_seed[b] else b)
        h = _mix_block(np.uint64(0), seed)
        h = _mix_block(h, seed >> np.uint64(32))
        h = _mix_block(h, position)
        gate[b] = np.float64(_finish(_mix_block(h, np.uint64(GATE_COLUMN)))) / 2.0**32
        for i in range(ids.shape[1]):
            x = np.float64(_finish(_mix_block(h, np.uint64(ids[b, i])))) / _LARGEST_HASH
            log = min(max(np.log(x), _LEAST_LOG), -(2.0**-32))
            pick[b, i] = -np.log(-log)
