"""Drafted trees for tests, described by their parents alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Draft:
    """One request's draft: the token of each node, and its parent (-1: the root, node 0)."""

    tokens: tuple[int, ...]
    parents: tuple[int, ...]

    @classmethod
    def drawn(cls, rng: random.Random, width: int, vocab: int) -> Draft:
        """Any tree; parents do not fall, as in breadth-first order."""
        parents = sorted(rng.randrange(node) for node in range(1, width))
        parents = [min(parent, node) for node, parent in enumerate(parents)]
        return cls(tuple(rng.choices(range(vocab), k=width)), (-1, *parents))

    @property
    def width(self) -> int:
        return len(self.parents)

    def way(self, node: int) -> list[int]:
        """The nodes from below the root to `node`."""
        way: list[int] = []
        while node > 0:
            way.insert(0, node)
            node = self.parents[node]
        return way

    @property
    def first_child(self) -> list[int]:
        later = range(self.width)
        return [next((n for n in later if self.parents[n] == node), -1) for node in later]

    @property
    def next_sibling(self) -> list[int]:
        return [
            next(
                (n for n in range(node + 1, self.width) if self.parents[n] == self.parents[node]),
                -1,
            )
            if node
            else -1
            for node in range(self.width)
        ]

    def mask(self) -> Tensor:
        """[D, D] bool: the nodes each node sees."""
        seen = torch.zeros(self.width, self.width, dtype=torch.bool)
        for node in range(self.width):
            seen[node, [0, *self.way(node)]] = True
        return seen


def drafted(batch: Sequence[Draft]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens, rows, first children and next siblings of a batch of one width, [B, D] each."""
    size, width = len(batch), batch[0].width
    return (
        torch.tensor([draft.tokens for draft in batch]),
        torch.arange(size * width).view(size, width),
        torch.tensor([draft.first_child for draft in batch]),
        torch.tensor([draft.next_sibling for draft in batch]),
    )
