"""What a request has fed back under SoftThinking: kept on the host, counted, traced, restored.

A mixture is no token: when a request is retracted, its ids alone could not rebuild its KV. So every
rank keeps the mixtures of the committed tokens; they travel with the step's other statistics.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from led_sglang.common.phases import PHASE_NAMES, Phase
from led_sglang.methods.reporting import Commits, Counters
from led_sglang.methods.soft_thinking.params import SUMMARY_KEY, TRACE_KEY


@dataclass(frozen=True)
class SoftRecord:
    """The record of a step for its D soft rows; K is the widest mixture of the batch.

    Attributes:
        index: [D] int64 places in the batch.
        phases: [D] int64, `Phase` of the state in which the token was sampled.
        entropy: [D] f32, nats.
        forced: [D] bool, by the cold stop.
        active: [D] bool, the mixture is the next input; else the token.
        streak: [D] int64, see `SoftState`.
        ids, weights: [D, K] int64 and f32.
    """

    every_rank: ClassVar[bool] = True

    index: Tensor
    phases: Tensor
    entropy: Tensor
    forced: Tensor
    active: Tensor
    streak: Tensor
    ids: Tensor
    weights: Tensor

    def copied(self, copy: Callable[[Tensor], Tensor]) -> SoftRecord:
        """See `Record.copied`."""
        return SoftRecord(*(copy(getattr(self, entry.name)) for entry in fields(self)))

    def commit(self, commits: Commits, counters: Counters) -> None:
        """Add the committed tokens to their requests' histories."""
        arrays = self.arrays()
        for row, place in enumerate(arrays["index"].tolist()):
            notes = commits.notes(place)
            if notes is None:
                continue
            entry = notes.statistics.add(arrays, row, commits.position(place))
            notes.summarise(SUMMARY_KEY)
            if notes.params.trace:
                notes.append(TRACE_KEY, entry)

    def arrays(self) -> dict[str, np.ndarray]:
        """Every tensor, which must be on the host, as an array."""
        return {entry.name: getattr(self, entry.name).numpy() for entry in fields(self)}


@dataclass(slots=True)
class _Entry:
    """One committed token."""

    ids: np.ndarray  # [K] int64
    weights: np.ndarray  # [K] f32
    active: bool
    streak: int


@dataclass
class SoftHistory:
    """Every token of a request so far, in order, and its statistics."""

    entries: list[_Entry] = field(default_factory=list)
    think_tokens: int = 0
    cold_stops: int = 0
    entropy_sum: float = 0.0

    def add(self, record: dict[str, np.ndarray], row: int, position: int) -> dict[str, Any]:
        """Append a token; returns its trace entry.

        Args:
            record: the arrays of a `SoftRecord`.
            row: of the record.
            position: of the token in the output; later ones, of before a retraction, are dropped.
        """
        del self.entries[position:]
        used = record["weights"][row] > 0
        # a mask copies: the entry must not hold on to the batch's arrays
        ids, weights = record["ids"][row][used], record["weights"][row][used]
        phase = int(record["phases"][row])
        entry = _Entry(ids, weights, bool(record["active"][row]), int(record["streak"][row]))
        self.entries.append(entry)
        trace: dict[str, Any] = {"phase": PHASE_NAMES[phase]}
        if phase != Phase.THINK:
            return trace
        forced, entropy = bool(record["forced"][row]), float(record["entropy"][row])
        self.think_tokens += 1
        self.entropy_sum += entropy
        # a delimiter of several tokens is one stop
        started = forced and (position == 0 or self.entries[position - 1].streak >= 0)
        self.cold_stops += started
        return trace | {
            "entropy": entropy,
            "ids": ids.tolist(),
            "weights": weights.tolist(),
            "cold_stop": forced,
        }

    def report(self) -> dict[str, Any]:
        """As it appears in `meta_info["soft_thinking"]`."""
        think = self.think_tokens
        return {
            "think_tokens": think,
            "cold_stops": self.cold_stops,
            "mean_entropy": self.entropy_sum / think if think else None,
        }

    @property
    def streak(self) -> int:
        """The cold-stop count after the last token."""
        return self.entries[-1].streak if self.entries else 0

    def mixtures(self, first: int, last: int) -> tuple[list[int], Tensor, Tensor]:
        """Those of tokens first .. last - 1 that were fed back: places, ids [n, K], weights [n, K].

        Raises:
            IndexError: a token in that range has no entry.
        """
        if last > len(self.entries):
            raise IndexError(f"{len(self.entries)} mixtures are known, {last} are needed")
        places = [i for i in range(first, last) if self.entries[i].active]
        width = max((len(self.entries[i].ids) for i in places), default=0)
        ids = torch.zeros(len(places), width, dtype=torch.int64)
        weights = torch.zeros(len(places), width)
        for row, i in enumerate(places):
            entry = self.entries[i]
            ids[row, : len(entry.ids)] = torch.from_numpy(entry.ids)
            weights[row, : len(entry.ids)] = torch.from_numpy(entry.weights)
        return places, ids, weights
