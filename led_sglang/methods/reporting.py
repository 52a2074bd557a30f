"""What a step leaves behind for the host: records, a request's notes, and counters.

A step leaves small tensors on the device; SGLang copies them to the host together with the sampled
ids and hands them back, one step later, when the tokens are committed. Nothing here waits for the
device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from torch import Tensor


class Reporting(Protocol):
    """A request's running statistics."""

    def report(self) -> dict[str, Any]:
        """As it appears in `meta_info`."""


class LatestReport:
    """A request's statistics in the shape of SGLang's per-token metadata.

    SGLang slices a request's metadata by token range before it sends a chunk. A summary has no
    token range: any slice of this object is the one report of that moment.
    """

    def __init__(self, statistics: Reporting) -> None:
        self._statistics = statistics

    def __getitem__(self, _: slice) -> list[dict[str, Any]]:
        return [self._statistics.report()]


@dataclass
class RequestNotes:
    """What is known of one request that uses a method.

    Attributes:
        sampler: the name it chose.
        params: the method's parameters.
        statistics: of the method, or None.
        info: goes to `meta_info`: lists of one entry per token, and the summary.
    """

    sampler: str
    params: Any
    statistics: Any = None
    info: dict[str, Any] = field(default_factory=dict)

    def summarise(self, key: str) -> None:
        """Show the statistics in `meta_info[key]` from now on."""
        self.info.setdefault(key, LatestReport(self.statistics))

    def append(self, key: str, entry: Any) -> None:
        """One token's entry of the list `meta_info[key]`."""
        self.info.setdefault(key, []).append(entry)


class Commits(Protocol):
    """The committed tokens of a step, by row of its batch."""

    def notes(self, row: int) -> RequestNotes | None:
        """Of the row's request; None where no token was committed: an aborted or retracted request,
        a middle chunk."""

    def token_id(self, row: int) -> int:
        """The row's committed token."""

    def position(self, row: int) -> int:
        """Its place in the request's output."""


class Counters(Protocol):
    """Sums over all requests since the server started."""

    def add(self, name: str, by: float = 1, depth: int | None = None) -> None:
        """Move a sum on; `depth` where it is kept by exploration depth."""


class Record(Protocol):
    """What one step of a method leaves behind, on the device or, once copied, on the host.

    Attributes:
        every_rank: every tensor-parallel rank needs it; else only the one that answers.
    """

    every_rank: ClassVar[bool]

    def copied(self, copy: Callable[[Tensor], Tensor]) -> Record:
        """The same with every tensor, a row each of the step's, passed through `copy`: to the host
        (asynchronous), or to those of its rows that are committed."""

    def commit(self, commits: Commits, counters: Counters) -> None:
        """Count and note the step's committed tokens; the record is on the host."""
