"""The engine's own sampling for requests with a seed, which it ignores by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from led_sglang.kernels import seeded_noise
from led_sglang.kernels.eager.posterior import largest_ids
from led_sglang.methods.rows import Row, RowTable

# [n, V] f32 posteriors, [n] f32 top_p -> the posteriors with 0 outside their nuclei.
TopP = Callable[[Tensor, Tensor], Tensor]

# Elements of noise that are made at once: 64 MB of int64.
_CHUNK = 2**23


@dataclass(frozen=True)
class SeededRows:
    """The rows of a batch that draw with a seed, in three parts by their filters, [n] each.

    A request without a seed draws from the engine's random stream; at the nodes of a draft, where
    the engine draws for its own rows alone, with a seed of the server's noise.

    Attributes:
        ranked: places of those with a top_k.
        nucleus: of those with a top_p below 1 and no top_k.
        whole: of those with neither.
        top_k: the largest of any.
        top_ks, top_ps, min_ps, seeds: [B], of all rows of the batch.
    """

    ranked: Tensor
    nucleus: Tensor
    whole: Tensor
    top_k: int
    top_ks: Tensor
    top_ps: Tensor
    min_ps: Tensor
    seeds: Tensor

    @classmethod
    def of(cls, table: RowTable) -> SeededRows | None:
        """Those of a batch whose requests have a seed, read once; None where no row has one."""
        return cls._those(table, lambda row: row.seed is not None and _may_need_it(row))

    @classmethod
    def of_drafts(cls, table: RowTable) -> SeededRows | None:
        """All but the `regular` rows of a table of drafted nodes, read once."""
        return cls._those(table, lambda row: not row.regular and _may_need_it(row))

    @classmethod
    def _those(cls, table: RowTable, concerned: Callable[[Row], bool]) -> SeededRows | None:
        def places(part: Callable[[Row], bool]) -> Tensor:
            found = [i for i, row in enumerate(table.rows) if concerned(row) and part(row)]
            return table.upload(torch.tensor(found, dtype=torch.int64))

        if not any(map(concerned, table.rows)):
            return None
        return cls(
            ranked=places(lambda row: row.top_k > 0),
            nucleus=places(lambda row: row.top_k <= 0 and row.top_p < 1.0),
            whole=places(lambda row: row.top_k <= 0 and row.top_p >= 1.0),
            top_k=max(row.top_k for row in table.rows if concerned(row)),
            top_ks=table.filters["top_k"],
            top_ps=table.filters["top_p"],
            min_ps=table.filters["min_p"],
            seeds=table.seeds,
        )

    def with_seeds(self, seeds: Tensor) -> SeededRows:
        """The same rows with other seeds [B] int64."""
        return replace(self, seeds=seeds)

    def __bool__(self) -> bool:
        """Whether there are any."""
        return any(part.numel() for part in (self.ranked, self.nucleus, self.whole))

    def among(self, wanted: Tensor) -> SeededRows:
        """Those of `wanted` [B] bool; waits for the device, so on a CPU alone."""
        parts = (self.ranked, self.nucleus, self.whole)
        ranked, nucleus, whole = (part[wanted[part]] for part in parts)
        return replace(self, ranked=ranked, nucleus=nucleus, whole=whole)

    def pick(
        self, probs: Tensor, positions: Tensor, token_ids: Tensor, top_p: TopP | None
    ) -> Tensor:
        """Sample filtered posteriors with seeded noise (docs/method.md#randomness).

        SGLang ignores a request's seed unless the whole server runs deterministic inference; its
        filters (top-k, then top-p over the unfiltered mass, then min-p) are kept.

        Args:
            probs: [B, V] f32 posteriors at the requests' temperatures; not modified.
            positions: [B] int64.
            token_ids: [B], the engine's picks, for the rows without a seed.
            top_p: the device's own kernel; None: plain torch sorts those rows.

        Returns:
            [B] token ids of the dtype of `token_ids`.
        """
        if self.ranked.numel():
            kept = probs.index_select(0, self.ranked)
            ids = largest_ids(kept, min(self.top_k, kept.shape[1]))
            kept = kept.gather(1, ids)
            rank = torch.arange(kept.shape[1], device=kept.device)
            out = rank >= self.top_ks[self.ranked, None]
            out |= kept.cumsum(1) - kept > self.top_ps[self.ranked, None]
            picks = self._draw(kept.masked_fill(out, 0.0), ids, self.ranked, positions)
            token_ids = token_ids.index_copy(0, self.ranked, picks.to(token_ids.dtype))
        for index, cut in ((self.nucleus, top_p or _top_p), (self.whole, None)):
            for rows in index.split(max(1, _CHUNK // probs.shape[1])) if index.numel() else ():
                kept = probs.index_select(0, rows)
                if cut is not None:
                    kept = cut(kept, self.top_ps[rows])
                ids = torch.arange(kept.shape[1], device=kept.device).expand_as(kept)
                picks = self._draw(kept, ids, rows, positions)
                token_ids = token_ids.index_copy(0, rows, picks.to(token_ids.dtype))
        return token_ids

    def _draw(self, kept: Tensor, ids: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
        """[n] ids, one of `kept` [n, K] each; what is 0 there cannot be drawn."""
        least = kept.amax(1, keepdim=True) * self.min_ps[rows, None]
        noise = seeded_noise(self.seeds[rows], positions[rows], ids)
        score = kept.double().log().masked_fill(kept < least, -torch.inf) + noise.pick
        return ids.gather(1, score.argmax(1, keepdim=True))[:, 0]


def _may_need_it(row: Row) -> bool:
    """Whether a row may need a pick of the engine's kind.

    Not where its method picks each of its tokens. A row that thinks now is concerned: the host
    learns a token one step late, and the one in flight may have ended the thought.
    """
    return not getattr(row.params, "picks_every_token", False)


def _top_p(probs: Tensor, top_p: Tensor) -> Tensor:
    """`TopP` in plain torch; of equals at the edge those with the lowest ids stay."""
    kept, ids = probs.sort(dim=1, descending=True, stable=True)
    kept = kept.masked_fill(kept.cumsum(1) - kept > top_p[:, None], 0.0)
    return torch.zeros_like(probs).scatter(1, ids, kept)
