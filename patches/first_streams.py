"""The captured layers as the first request brings them: numbers, or the server ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from led_sglang.methods.reporting import Commits, Counters


@dataclass(frozen=True)
class FirstStreams:
    """Which layers are finite, looked at on the device and read once it is on the host anyway.

    Attributes:
        finite: [C] bool.
        layers: the l of these h^l.
    """

    every_rank: ClassVar[bool] = True

    finite: Tensor
    layers: tuple[int, ...]

    @classmethod
    def of(cls, captured: Tensor, logits: Tensor, layers: Sequence[int]) -> FirstStreams:
        """Look at a step's streams.

        Args:
            captured: [B, C, H].
            logits: [B, V] final ones; a row that holds NaN there comes from a request that holds
                NaN, such as a prompt of embeddings, and tells nothing.
            layers: [C].
        """
        broken = ~captured.isfinite().all(2) & ~logits.isnan().any(1, keepdim=True)
        return cls(~broken.any(0), tuple(layers))

    def copied(self, copy: Callable[[Tensor], Tensor]) -> FirstStreams:
        """See `Record.copied`."""
        return FirstStreams(copy(self.finite), self.layers)

    def commit(self, commits: Commits, counters: Counters) -> None:
        """Read it on the host.

        Raises:
            RuntimeError: a layer holds an infinity or NaN.
        """
        pairs = zip(self.layers, self.finite.tolist(), strict=True)
        broken = [f"h^{layer}" for layer, finite in pairs if not finite]
        if broken:
            raise RuntimeError(
                f"LED captured infinities or NaN in {', '.join(broken)} where the final logits are "
                "numbers: SGLang hands out something else than these layers; start without LED "
                "(--sampler regular), or without this check (--led-self-check off)"
            )
