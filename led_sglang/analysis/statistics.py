"""Running sums over tokens, the table they give, and the depth it recommends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

COVERAGE_SIZES = (1, 2, 4, 8, 16)
# Index of the first dimension: W h^l, and W norm(h^l).
VARIANTS = ("no_norm", "norm")


@dataclass(frozen=True)
class LayerTable:
    """Averages over all tokens. Layers count from 1; the last one always has the final norm, since
    p^L has.

    tokens: how many.
    vocab: size V of the vocabulary.
    entropy: [2, L], H(p^l) / log V, without and with the final norm.
    coverage: [2, L, 5], r_k for k of COVERAGE_SIZES.
    """

    tokens: int
    vocab: int
    entropy: np.ndarray[Any, np.dtype[np.float64]]
    coverage: np.ndarray[Any, np.dtype[np.float64]]

    @property
    def layers(self) -> int:
        return self.entropy.shape[1]

    def least_coverage(self, threshold: float) -> float:
        """The r_16 from which a layer counts: `threshold` of the way from what two random sets of
        16 tokens share, 16 / V, to all. Only a small vocabulary makes it differ from `threshold`.
        """
        chance = max(COVERAGE_SIZES) / self.vocab
        return chance + threshold * (1.0 - chance)


class LayerSums:
    """Sums over tokens, on the device: 2 * L * 6 numbers, however many tokens there are.

    Coverage of layer l: r_k(l) = |top-k of p^l and of p^L| / k, the share of the final layer's k
    likeliest tokens that are also among layer l's k likeliest.
    """

    def __init__(self, layers: int, vocab: int, device: torch.device) -> None:
        self.tokens = 0
        self._vocab = vocab
        self._entropy = torch.zeros(2, layers, dtype=torch.float64, device=device)
        self._overlap = torch.zeros(
            2, layers, len(COVERAGE_SIZES), dtype=torch.int64, device=device
        )

    def add_entropy(self, layer: int, variant: int, entropies: Tensor) -> None:
        """Add N tokens' entropies [N], nats, of a layer (from 0)."""
        self._entropy[variant, layer] += entropies.sum()

    def add_coverage(self, tops: Sequence[Sequence[Tensor]]) -> None:
        """Add N tokens' coverage, and count the tokens.

        Args:
            tops: per variant and layer, ids [N, 16] int64 by falling logit; the last layer's are
                the final posterior's.
        """
        for variant, of_layers in enumerate(tops):
            final = of_layers[-1]
            for layer, ids in enumerate(of_layers):
                same = ids[:, :, None] == final[:, None, :]
                for column, k in enumerate(COVERAGE_SIZES):
                    self._overlap[variant, layer, column] += same[:, :k, :k].sum()
        self.tokens += tops[0][-1].shape[0]

    def table(self) -> LayerTable:
        """The averages so far.

        Raises:
            ValueError: no token has been added.
        """
        if self.tokens == 0:
            raise ValueError("no token has been analysed")
        sizes = np.array(COVERAGE_SIZES)
        return LayerTable(
            tokens=self.tokens,
            vocab=self._vocab,
            entropy=self._entropy.cpu().numpy() / (self.tokens * math.log(self._vocab)),
            coverage=self._overlap.cpu().numpy() / (self.tokens * sizes),
        )


def recommended_depth(table: LayerTable, threshold: float) -> int:
    """Exploration depth d: from the final layer downwards, how many layers in a row still hold a
    share of the final 16 candidates (r_16, without the final norm) that is not negligible, which
    is `LayerTable.least_coverage`."""
    r_16 = table.coverage[0, ::-1, COVERAGE_SIZES.index(16)]
    covers = r_16 >= table.least_coverage(threshold)
    return int(covers.argmin()) if not covers.all() else len(covers)
