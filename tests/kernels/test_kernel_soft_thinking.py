"""SoftThinking's mixture equals the float64 reference; its noise has the right distribution."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from led_sglang.kernels.eager.noise import gumbel_from_hash, hash32
from led_sglang.kernels.eager.soft_thinking import (
    SoftLimits,
    SoftMixture,
    SoftNoise,
    SoftRows,
    soft_mixture,
)
from led_sglang.kernels.reference.soft_thinking import soft_reference

# Each a request of its own; together they mix every filter in one batch.
REQUESTS: list[dict[str, Any]] = [
    {"temperature": 0.6},
    {"temperature": 1.0, "top_k": 20, "top_p": 0.95},
    {"temperature": 0.8, "top_p": 0.7, "max_topk": 30},
    {"temperature": 1.3, "top_k": 5},
    {"temperature": 1.0, "min_p": 0.2, "max_topk": 4},
    {"temperature": 0.6, "top_k": 40, "top_p": 0.5, "min_p": 0.05, "max_topk": 1},
    {"temperature": 1.0, "top_k": 1},
]


def batch(
    requests: list[dict[str, Any]], vocab: int, noise: SoftNoise = SoftNoise.NONE, value: float = 1
) -> tuple[SoftRows, SoftLimits]:
    def column(key: str, default: Any, dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor([request.get(key, default) for request in requests], dtype=dtype)

    top_k = column("top_k", vocab, torch.int64)
    filtered = [int(k) for k in top_k if k < vocab]
    rows = SoftRows(
        temperature=column("temperature", 1.0, torch.float32),
        top_k=top_k,
        top_p=column("top_p", 1.0, torch.float32),
        min_p=column("min_p", 0.0, torch.float32),
        max_topk=column("max_topk", 10, torch.int64),
        noise=torch.full((len(requests),), int(noise)),
        noise_value=torch.full((len(requests),), float(value)),
    )
    dirichlet = noise == SoftNoise.DIRICHLET
    depth = vocab if dirichlet and len(filtered) < len(requests) else max(filtered, default=1)
    limits = SoftLimits(
        width=int(rows.max_topk.max()),
        depth=depth,
        gumbel=noise == SoftNoise.GUMBEL,
        dirichlet=dirichlet,
    )
    return rows, limits


def logits_of(requests: list[dict[str, Any]], vocab: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(requests), vocab, generator=generator) * 3
    logits[:, 3] = -torch.inf
    return logits


def close(mixture: SoftMixture, row: int, ids: list[int], weights: torch.Tensor) -> None:
    assert mixture.ids[row, : len(ids)].tolist() == ids
    torch.testing.assert_close(
        mixture.weights[row, : len(ids)].double(), weights, rtol=1e-5, atol=1e-9
    )
    assert mixture.weights[row, len(ids) :].sum() == 0


@pytest.mark.parametrize("vocab", [9, 261, 3001])
def test_equals_the_reference(vocab: int) -> None:
    logits = logits_of(REQUESTS, vocab)
    rows, limits = batch(REQUESTS, vocab)
    zeros = torch.zeros(len(REQUESTS), dtype=torch.int64)
    mixture = soft_mixture(logits, rows, limits, zeros, zeros)
    for row, request in enumerate(REQUESTS):
        truth = soft_reference(logits[row], **request)
        assert float(mixture.entropy[row]) == pytest.approx(truth.entropy, rel=1e-5, abs=1e-6)
        close(mixture, row, truth.ids, truth.weights)


def test_gumbel_equals_the_reference_with_the_same_noise() -> None:
    vocab = 261
    logits = logits_of(REQUESTS, vocab, 1)
    rows, limits = batch(REQUESTS, vocab, SoftNoise.GUMBEL, 0.5)
    seeds, positions = torch.arange(len(REQUESTS)) * 7, torch.arange(len(REQUESTS)) + 90
    mixture = soft_mixture(logits, rows, limits, seeds, positions)
    for row, request in enumerate(REQUESTS):
        noise = gumbel_from_hash(hash32(seeds[row], positions[row], torch.arange(vocab)))
        truth = soft_reference(logits[row], **request, gumbel=noise, gumbel_temperature=0.5)
        close(mixture, row, truth.ids, truth.weights)


def test_kinds_of_noise_mixed_equal_each_alone() -> None:
    vocab, requests = 261, [REQUESTS[1]] * 3
    logits = logits_of(requests, vocab, 2)
    seeds, positions = torch.tensor([5, 6, 7]), torch.tensor([1, 2, 3])
    kinds = [SoftNoise.NONE, SoftNoise.GUMBEL, SoftNoise.DIRICHLET]
    rows, limits = batch(requests, vocab)
    mixed = soft_mixture(
        logits,
        replace(rows, noise=torch.tensor(kinds), noise_value=torch.tensor([1.0, 0.5, 4.0])),
        replace(limits, gumbel=True, dirichlet=True),
        seeds,
        positions,
    )
    for row, (kind, value) in enumerate(zip(kinds, (1.0, 0.5, 4.0), strict=True)):
        alone = soft_mixture(logits, *batch(requests, vocab, kind, value), seeds, positions)
        assert torch.equal(mixed.ids[row], alone.ids[row])
        assert torch.equal(mixed.weights[row], alone.weights[row])


DRAWS = 20_000


def test_gumbel_picks_follow_the_filtered_distribution() -> None:
    """The argmax of log w + Gumbel is a draw from w, whatever the temperature of the softmax."""
    request = {"temperature": 1.0, "top_k": 8, "max_topk": 8}
    logits = logits_of([request], 40, 3)
    truth = soft_reference(logits[0], **request)
    rows, limits = batch([request] * DRAWS, 40, SoftNoise.GUMBEL, 0.5)
    many = logits.expand(DRAWS, -1)
    mixture = soft_mixture(many, rows, limits, torch.arange(DRAWS), torch.full((DRAWS,), 11))
    counts = torch.bincount(mixture.ids[:, 0], minlength=40)[truth.ids]
    assert int(counts.sum()) == DRAWS
    assert stats.chisquare(counts.tolist(), (truth.weights * DRAWS).tolist()).pvalue > 0.001


@pytest.mark.parametrize("alpha", [0.05, 1.0, 4.0, 50.0])
def test_dirichlet_marginals(alpha: float) -> None:
    """Each weight of a Dirichlet is Beta(a_i, sum of the others)."""
    request = {"temperature": 1.0, "top_k": 4, "max_topk": 4}
    logits = torch.tensor([[1.0, 0.5, 0.0, -1.0, -9.0]])
    p = soft_reference(logits[0], **request).filtered
    rows, limits = batch([request] * DRAWS, 5, SoftNoise.DIRICHLET, alpha)
    many = logits.expand(DRAWS, -1)
    mixture = soft_mixture(many, rows, limits, torch.arange(DRAWS), torch.full((DRAWS,), 5))
    dense = torch.zeros(DRAWS, 5).scatter(1, mixture.ids, mixture.weights)
    assert torch.equal(dense[:, 4], torch.zeros(DRAWS))
    # Points inside (0, 1): with a small alpha most draws are too near its ends for floats.
    points = np.linspace(0.001, 0.999, 50)
    for token in range(4):
        a = alpha * float(p[token])
        sample = dense[:, token].double().numpy()
        drawn = (sample[:, None] <= points).mean(0)
        # Five standard errors of a share of 20,000 draws.
        assert np.abs(drawn - stats.beta(a, alpha - a).cdf(points)).max() < 5 * 0.5 / DRAWS**0.5
