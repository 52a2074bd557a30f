"""The final layer's posterior and its candidates on a CPU, compiled (docs/method.md#candidates).

A row takes the same vectors in the same order whatever the rows beside it.
"""

from __future__ import annotations

import numpy as np

from .jit import compiled, vectorised

_LOG2_E = np.float32(1.44269504)
_LN_2_HIGH = np.float32(0.693359375)
_LN_2_LOW = np.float32(-2.12194440e-4)
# exp below this is less than the smallest normal fp32.
_LEAST = np.float32(-87.0)
_NOTHING = np.float32(-88.0)
# Terms added up in fp32 before they go into a float64.
_AT_ONCE = 1024


@vectorised
def exp_f32(x):
    """exp(x) for fp32 x <= 0 to 2 units in the last place, in plain arithmetic that compilers turn
    into vectors (Cephes' expf). 0 below -87; NaN stays NaN."""
    y = _LEAST if x < _LEAST else x
    n = np.floor(y * _LOG2_E + np.float32(0.5))
    r = y - n * _LN_2_HIGH - n * _LN_2_LOW
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * r * r + r + np.float32(1.0)
    p *= np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
    return np.float32(0.0) if x < _LEAST else p


@vectorised
def _sum_exp_block(x, top, temperature):
    total = np.float32(0.0)
    for i in range(x.shape[0]):
        total += exp_f32((x[i] - top) / temperature)
    return total


@vectorised
def _sum_weighted_block(x, top, temperature):
    total = np.float32(0.0)
    for i in range(x.shape[0]):
        scaled = (x[i] - top) / temperature
        # The bound keeps 0 * log 0 at 0.
        scaled = _NOTHING if scaled < _NOTHING else scaled
        total += exp_f32(scaled) * scaled
    return total


@compiled
def sum_exp(x, top, temperature):
    """Sum of exp((x - top) / T), float64, of x [n] f32; top is its maximum."""
    total = 0.0
    for start in range(0, x.shape[0], _AT_ONCE):
        total += _sum_exp_block(x[start : start + _AT_ONCE], top, temperature)
    return total


@compiled
def sum_weighted(x, top, temperature):
    """Sum of e exp(e) with e = (x - top) / T, float64; see `sum_exp`."""
    total = 0.0
    for start in range(0, x.shape[0], _AT_ONCE):
        total += _sum_weighted_block(x[start : start + _AT_ONCE], top, temperature)
    return total


@compiled
def _largest(row, ids, values):
    """The len(ids) largest of row [V] f32, descending, ties to the lowest id."""
    k = ids.shape[0]
    listed = 0
    for v in range(row.shape[0]):
        x = row[v]
        if listed == k:
            if not x > values[k - 1]:
                continue
        else:
            listed += 1
        at = listed - 1
        while at > 0 and x > values[at - 1]:
            values[at] = values[at - 1]
            ids[at] = ids[at - 1]
            at -= 1
        values[at] = x
        ids[at] = v


@compiled
def posterior(
    logits,  # [B, V] f32
    temperature,  # [B] f32
    candidates,  # [B] int64
    candidate_top_p,  # [B] f32
    want_entropy,  # bool
    ids,  # out [B, K] int64
    logprobs,  # out [B, K] f32
    p1,  # out [B] f32
    entropy,  # out [B] f32
):
    k = ids.shape[1]
    values = np.empty(k, np.float32)
    for b in range(logits.shape[0]):
        row, t = logits[b], temperature[b]
        _largest(row, ids[b], values)
        top = values[0]
        p1[b], entropy[b] = 1.0, 0.0
        if top == -np.inf:
            # A row without any possible token counts as certain.
            logprobs[b] = -np.inf
            continue
        total = sum_exp(row, top, t)
        log_total = np.log(total)
        p1[b] = 1.0 / total
        if want_entropy:
            entropy[b] = log_total - sum_weighted(row, top, t) / total
        mass_before = 0.0
        for i in range(k):
            logprob = np.float32(np.float64((values[i] - top) / t) - log_total)
            # A nucleus of 1 drops nothing, although p1 may round to 1.
            nucleus = candidate_top_p[b]
            kept = i < candidates[b] and (mass_before < nucleus or nucleus >= 1.0)
            logprobs[b, i] = logprob if kept else -np.inf
            mass_before += np.exp(np.float64(logprob))
