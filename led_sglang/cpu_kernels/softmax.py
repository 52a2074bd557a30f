"""Softmax over the vocabulary on a CPU, compiled: steps 1 and 2, and step 3 of a small LM head.

A row takes the same vectors in the same order whatever the rows beside it.
"""

# Compiled functions: what their arguments are stands beside each.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

import numpy as np

from .jit import compiled, vectorised

# Elements of the largest head that is multiplied here: widened, it stays in a core's cache.
LARGEST_HEAD = 2**17
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
    top_p,  # [B] f32
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
            kept = i < candidates[b] and (mass_before < top_p[b] or top_p[b] >= 1.0)
            logprobs[b, i] = logprob if kept else -np.inf
            mass_before += np.exp(np.float64(logprob))


@vectorised
def _widen_bf16(bits, out):
    for i in range(bits.shape[0]):
        out[i] = np.uint32(np.uint32(bits[i]) << np.uint32(16)).view(np.float32)


@vectorised
def _dot(x, w):
    total = np.float32(0.0)
    for i in range(x.shape[0]):
        total += x[i] * w[i]
    return total


@compiled
def head_partials(
    latents,  # [M, H] uint16, the bits of bf16
    temperature,  # [B] f32
    weight,  # [V, H] uint16, the bits of bf16
    request,  # [>= M] int64: row of the batch
    place,  # [>= M] int64: where the row goes in partials
    ids,  # [B, K] int64
    vocab_start,  # vocabulary id of the first column
    partials,  # out [n, K + 2] f32: max, sum of exp(z / T - max), candidate logits, all of z / T
):
    """Writes the places of these rows and no others."""
    columns, hidden = weight.shape
    wide = np.empty((columns, hidden), np.float32)
    for column in range(columns):
        _widen_bf16(weight[column], wide[column])
    x, z = np.empty(hidden, np.float32), np.empty(columns, np.float32)
    for row in range(latents.shape[0]):
        _widen_bf16(latents[row], x)
        top = np.float32(-np.inf)
        for column in range(columns):
            z[column] = _dot(x, wide[column])
            top = max(top, z[column])
        t = temperature[request[row]]
        out = partials[place[row]]
        out[0] = top / t
        out[1] = sum_exp(z, top, t)
        for i in range(ids.shape[1]):
            column = ids[request[row], i] - vocab_start
            out[2 + i] = 0.0
            if 0 <= column < columns:
                # float64: z / T is rounded only once, however far below the maximum it is.
                dot = 0.0
                for h in range(hidden):
                    dot += float(x[h]) * float(wide[column, h])
                out[2 + i] = dot / t


@compiled
def fold(
    z,  # [M, n] f32: logits of the next columns
    temperature,  # [M] f32
    peaks,  # in and out [M] f32: max of z so far
    totals,  # in and out [M] f64: sum of exp((z - max) / T) so far
):
    for row in range(z.shape[0]):
        t, top = temperature[row], peaks[row]
        for column in range(z.shape[1]):
            top = max(top, z[row, column])
        if top == -np.inf:
            continue
        if peaks[row] != -np.inf:
            totals[row] *= np.exp((float(peaks[row]) - float(top)) / float(t))
        totals[row] += sum_exp(z[row], top, t)
        peaks[row] = top
