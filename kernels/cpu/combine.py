"""From the ranks' partials to a token on a CPU, compiled, row by row.

See docs/method.md#cumulative-sums, docs/method.md#entropy-choice and docs/method.md#token.
"""

from __future__ import annotations

import numpy as np

from .jit import compiled


@compiled
def _first_largest(x):
    """Index of the first maximum of x [n]; 0 if there is a NaN, which equals nothing."""
    best = 0
    for i in range(x.shape[0]):
        if np.isnan(x[i]):
            return 0
        if x[i] > x[best]:
            best = i
    return best


@compiled
def _latent_probs(gathered, row, p):
    """p [K] = p^l(x_i) from every rank's partials, folded in rank order."""
    peak, total = -np.inf, 0.0
    for rank in range(gathered.shape[0]):
        rank_peak = float(gathered[rank, row, 0])
        top = max(peak, rank_peak)
        if peak != -np.inf:
            total *= np.exp(peak - top)
        if rank_peak != -np.inf:
            total += float(gathered[rank, row, 1]) * np.exp(rank_peak - top)
        peak = top
    lse = peak + np.log(total)
    for i in range(p.shape[0]):
        logit = np.float32(0.0)
        for rank in range(gathered.shape[0]):
            logit += gathered[rank, row, 2 + i]
        p[i] = np.exp(float(logit) - lse)


@compiled
def _normalise(p, terms):
    """p [K] / sum, in place; zeros stay zeros. terms: scratch, a power of two of at least K.

    A tree of sums: that of 2, 4, 8 ... equal numbers is exact, as ties between layers need it, and
    the same whatever slots beyond a row's candidates the batch has.
    """
    terms[:] = 0.0
    terms[: p.shape[0]] = p
    half = terms.shape[0] // 2
    while half > 0:
        for i in range(half):
            terms[i] += terms[i + half]
        half //= 2
    if terms[0] != 0.0:
        for i in range(p.shape[0]):
            p[i] /= terms[0]


@compiled
def _entropy(a):
    total = 0.0
    for i in range(a.shape[0]):
        if a[i] != 0.0:
            total -= a[i] * np.log(a[i])
    return total


@compiled
def _drawn(a, greedy, i):
    """Probability of candidate i under a draw from a [K], or under its argmax."""
    if greedy:
        return 1.0 if _first_largest(a) == i else 0.0
    return a[i]


@compiled
def combine(
    gathered,  # [ranks, B * layers, K + 2] f32: max, sum, candidate logits; or [0, 0, 0]: none live
    ids,  # [B, K] int64
    logprobs,  # [B, K] f32
    noise,  # [B, K] f64
    explored,  # [B] bool
    explore_probability,  # [B] f64
    projected,  # [B] bool
    row_depth,  # [B] int64
    floor,  # [B] f32
    normalize_layers,  # [B] bool
    greedy,  # [B] bool
    want_behaviour,  # bool
    token_ids,  # out [B] int64
    depth,  # out [B] int64
    layer_probs,  # out [B, layers + 1, K] f32
    behaviour_probs,  # out [B, K] f32
    behaviour_logprob,  # out [B] f32
):
    batch, k = ids.shape
    layers = layer_probs.shape[1] - 1
    p, score = np.empty(k), np.empty(k)
    width = 1
    while width < k:
        width *= 2
    terms = np.empty(width)
    # a [layer, K]: the normalised cumulative sums
    cumulated, a = np.empty(k), np.empty((layers + 1, k))
    entropies = np.empty(layers + 1)
    for b in range(batch):
        live = min(row_depth[b], layers + 1) if projected[b] else 1
        cumulated[:] = 0.0
        for layer in range(live):
            if layer == 0:
                for i in range(k):
                    p[i] = np.exp(float(logprobs[b, i]))
            else:
                _latent_probs(gathered, b * layers + layer - 1, p)
            # The floor comes before the normalisation, and never revives what is no candidate.
            for i in range(k):
                if p[i] < floor[b]:
                    p[i] = floor[b]
                if logprobs[b, i] == -np.inf:
                    p[i] = 0.0
            if normalize_layers[b]:
                _normalise(p, terms)
            for i in range(k):
                layer_probs[b, layer, i] = p[i]
                cumulated[i] += p[i]
                a[layer, i] = cumulated[i]
            _normalise(a[layer], terms)
        layer_probs[b, live:] = 0.0
        # A layer that is not live would add nothing: it ties with a nearer one, which wins.
        star = 0
        if live > 1:
            for layer in range(live):
                entropies[layer] = _entropy(a[layer])
            star = _first_largest(entropies[:live])

        taken = a[star] if explored[b] else a[0]
        for i in range(k):
            score[i] = taken[i] if greedy[b] else np.log(taken[i]) + noise[b, i]
        pick = _first_largest(score)
        token_ids[b] = ids[b, pick]
        depth[b] = star + 1 if explored[b] else 1

        # q is one categorical draw; it takes both sides to know it, unless one of them is certain.
        probability = explore_probability[b]
        known = projected[b] or probability == 0.0 or row_depth[b] == 1
        behaviour_probs[b], behaviour_logprob[b] = 0.0, -np.inf
        if want_behaviour and known:
            for i in range(k):
                exploit = _drawn(a[0], greedy[b], i)
                explore = _drawn(a[star], greedy[b], i)
                q = exploit + probability * (explore - exploit)
                behaviour_probs[b, i] = q
                if i == pick:
                    behaviour_logprob[b] = np.log(q)
