"""Running sums over tokens by prompt, the tables they give, and the depth they recommend."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from led_sglang.common.intervals import ratio_bounds

COVERAGE_SIZES = (1, 2, 4, 8, 16)
# Index of the first dimension: W h^l, and W norm(h^l).
VARIANTS = ("no_norm", "norm")
# Kinds of tokens, each with a table of its own.
GROUPS = ("all", "uncertain", "think", "answer")
# Of p^L: below it a token counts as uncertain. LED explores with probability 1 - p1.
UNCERTAIN_P1 = 0.9

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class LayerTable:
    """Averages over tokens. Layers count from 1; the last one always has the final norm, since
    p^L has.

    tokens: how many.
    vocab: size V of the vocabulary.
    entropy: [2, L], H(p^l) / log V, without and with the final norm.
    coverage: [2, L, 5], r_k for k of COVERAGE_SIZES.
    entropy_band, coverage_band: [2, ...] of the same shapes, ends of the 95% intervals over
        prompts, NaN where all prompts agree; None where they agree everywhere, and for one alone.
    """

    tokens: int
    vocab: int
    entropy: Array
    coverage: Array
    entropy_band: Array | None = None
    coverage_band: Array | None = None

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
    """Sums over tokens, on the device for one prompt at a time: 4 * 2 * L * 6 numbers a prompt.

    Coverage of layer l: r_k(l) = |top-k of p^l and of p^L| / k, the share of the final layer's k
    likeliest tokens that are also among layer l's k likeliest.
    """

    def __init__(self, layers: int, vocab: int, device: torch.device) -> None:
        self._vocab = vocab
        shape = (len(GROUPS), 2, layers)
        self._counts = torch.zeros(len(GROUPS), dtype=torch.float64, device=device)
        # The last column is the entropy; the others are tokens in common, by k.
        self._sums = torch.zeros(
            *shape, len(COVERAGE_SIZES) + 1, dtype=torch.float64, device=device
        )
        self._prompts: list[tuple[Array, Array]] = []

    def add(
        self,
        entropies: Sequence[Sequence[Tensor]],
        tops: Sequence[Sequence[Tensor]],
        groups: Tensor,
    ) -> None:
        """Add N tokens.

        Args:
            entropies: per variant and layer, [N], nats.
            tops: per variant and layer, ids [N, 16] int64 by falling logit; the last layer's are
                the final posterior's.
            groups: [4, N] bool, which tokens are in which of GROUPS.
        """
        weights = groups.double()
        self._counts += weights.sum(dim=1)
        for variant, of_layers in enumerate(tops):
            final = of_layers[-1]
            for layer, ids in enumerate(of_layers):
                same = ids[:, :, None] == final[:, None, :]
                for column, k in enumerate(COVERAGE_SIZES):
                    shared = same[:, :k, :k].sum(dim=(1, 2)).double()
                    self._sums[:, variant, layer, column] += weights @ shared
                self._sums[:, variant, layer, -1] += weights @ entropies[variant][layer].double()

    def end_prompt(self) -> None:
        """What was added since the last call is one prompt's."""
        self._prompts.append((self._counts.cpu().numpy().copy(), self._sums.cpu().numpy().copy()))
        self._counts.zero_()
        self._sums.zero_()

    def tables(self) -> dict[str, LayerTable]:
        """The averages so far, of every group that has a token; of an answer without any thought
        there is none, as it would be `all` again.

        Raises:
            ValueError: no token has been added.
        """
        if not self._prompts:
            raise ValueError("no token has been analysed")
        counts, sums = (np.stack(parts) for parts in zip(*self._prompts, strict=True))
        sizes = np.array([*COVERAGE_SIZES, math.log(self._vocab)])
        present = {name: bool(counts[:, group].any()) for group, name in enumerate(GROUPS)}
        present["answer"] &= present["think"]
        return {
            name: self._table(counts[:, group], sums[:, group] / sizes)
            for group, name in enumerate(GROUPS)
            if present[name]
        }

    def _table(self, counts: Array, sums: Array) -> LayerTable:
        """Of one group: counts [prompts], sums [prompts, 2, L, 6]."""
        used = counts > 0
        mean, low, high = ratio_bounds(sums[used], counts[used])
        band = None if np.isnan(low).all() else np.stack([low, high]).clip(0.0, 1.0)
        return LayerTable(
            tokens=int(counts.sum()),
            vocab=self._vocab,
            entropy=mean[..., -1],
            coverage=mean[..., :-1],
            entropy_band=None if band is None else band[..., -1],
            coverage_band=None if band is None else band[..., :-1],
        )


def recommended_depth(table: LayerTable, threshold: float) -> int:
    """Exploration depth d: from the final layer downwards, how many layers in a row still hold a
    share of the final 16 candidates (r_16, without the final norm) that is not negligible, which
    is `LayerTable.least_coverage`."""
    r_16 = table.coverage[0, ::-1, COVERAGE_SIZES.index(16)]
    covers = r_16 >= table.least_coverage(threshold)
    return int(covers.argmin()) if not covers.all() else len(covers)


@dataclass(frozen=True)
class Recommendation:
    """The depth that an analysis recommends, and why.

    Attributes:
        depth: 1 where no layer holds what the final one lost.
        covering: layers from the final one down that hold the final candidates.
        least: coverage that they have at least.
        group: the tokens it was read from.
    """

    depth: int
    covering: int
    least: float
    group: str

    @property
    def sentence(self) -> str:
        """For people."""
        covering = (
            f"from the final layer down, {self.covering} hold at least {self.least:.3g} of the "
            "final 16 candidates (r_16, no final norm)"
        )
        tokens = "tokens" if self.group == "all" else f"{self.group} tokens"
        if self.depth == self.covering and self.depth > 1:
            return f"recommended depth {self.depth}: {covering}, over {tokens}"
        return (
            f"recommended depth 1: no layer holds what the final one lost; {covering},"
            f" and none of those below it has more entropy than the final one, over {tokens}: "
            "there is nothing to explore"
        )


def recommend(tables: Mapping[str, LayerTable], threshold: float) -> Recommendation:
    """What the uncertain tokens say: LED explores no others. All, where none is uncertain."""
    group = "uncertain" if "uncertain" in tables else "all"
    table = tables[group]
    covering = recommended_depth(table, threshold)
    below, final = table.entropy[0, ::-1][1:covering], table.entropy[0, -1]
    depth = covering if (below > final).any() else 1
    return Recommendation(depth, covering, table.least_coverage(threshold), group)
