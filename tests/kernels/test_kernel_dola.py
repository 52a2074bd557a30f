"""DoLa in torch equals the float64 reference, whole and in vocabulary shards."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from kernel_ranks import Ranks

from led_sglang.kernels import LmHeadShard
from led_sglang.kernels.eager.dola import DolaResult, DolaRows, dola_scores
from led_sglang.kernels.reference.dola import dola_reference

HIDDEN, LAYERS = 32, 6
# Candidates of each row, as places among the captured layers: one, several, all.
CANDIDATES = ((3,), (0, 2), (1, 3, 5), tuple(range(LAYERS)), (0, 5), (2, 4))
# Ragged, and more columns than one block of the head.
VOCABULARIES = (7, 261, 5003)


def problem(vocab: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    head = torch.randn(vocab, HIDDEN, generator=generator) * 0.3
    captured = torch.randn(len(CANDIDATES), LAYERS, HIDDEN, generator=generator)
    final = torch.randn(len(CANDIDATES), vocab, generator=generator) * 3
    return final, captured, head


def rows(symmetric: bool, relative_top: float) -> DolaRows:
    pairs = [(r, layer) for r, layers in enumerate(CANDIDATES) for layer in layers]
    widest = max(map(len, CANDIDATES))
    places = [
        [pairs.index((r, layers[min(slot, len(layers) - 1)])) for slot in range(widest)]
        for r, layers in enumerate(CANDIDATES)
    ]
    return DolaRows(
        pair_row=torch.tensor([r for r, _ in pairs]),
        pair_layer=torch.tensor([layer for _, layer in pairs]),
        pair_of=torch.tensor(places),
        relative_top=torch.full((len(CANDIDATES),), relative_top),
        symmetric=torch.full((len(CANDIDATES),), symmetric),
    )


def check(result: DolaResult, vocab: int, seed: int, **options: Any) -> None:
    final, captured, head = problem(vocab, seed)
    for row, layers in enumerate(CANDIDATES):
        truth = dola_reference(final[row], captured[row, list(layers)], head, **options)
        assert int(result.layer[row]) == layers[truth.chosen]
        torch.testing.assert_close(result.scores[row].double(), truth.scores, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("vocab", VOCABULARIES)
@pytest.mark.parametrize("divergence", ["hf", "jensen-shannon"])
@pytest.mark.parametrize("relative_top", [0.1, 1.0, 1e-4])
def test_equals_the_reference(vocab: int, divergence: str, relative_top: float) -> None:
    final, captured, head = problem(vocab, 1)
    result = dola_scores(
        final,
        captured,
        rows(divergence != "hf", relative_top),
        LmHeadShard(weight=head, vocab_start=0, valid=vocab),
    )
    check(result, vocab, 1, divergence=divergence, relative_top=relative_top)


def test_projected_head_equals_the_reference() -> None:
    """A head without a plain weight; its padded column would win if it were read."""
    final, captured, head = problem(261, 2)
    padded = torch.cat([head, torch.full((1, HIDDEN), 50.0)])
    shard = LmHeadShard(
        weight=None, vocab_start=0, valid=261, project=lambda hidden: hidden @ padded.T
    )
    check(dola_scores(final, captured, rows(False, 0.1), shard), 261, 2)


@pytest.mark.parametrize("widths", [(131, 130), (100, 161, 0), (87, 87, 87)])
def test_shards_equal_the_whole(widths: tuple[int, ...]) -> None:
    """Every rank computes the same scores; collectives run in threads, one per rank."""
    vocab = sum(widths)
    final, captured, head = problem(vocab, 3)

    ranks = Ranks(len(widths))

    def run(index: int) -> DolaResult:
        start = sum(widths[:index])
        weight = torch.cat([head[start : start + widths[index]], torch.full((3, HIDDEN), 9.0)])
        shard = LmHeadShard(weight=weight, vocab_start=start, valid=widths[index])
        return dola_scores(
            final,
            captured,
            rows(False, 0.1),
            shard,
            shard_widths=widths,
            all_gather=ranks.all_gather(index),
        )

    with ThreadPoolExecutor(len(widths)) as pool:
        results = list(pool.map(run, range(len(widths))))
    for result in results:
        assert torch.equal(result.scores, results[0].scores)
        check(result, vocab, 3)
