"""One step of a batch between the engine's logits and its tokens: what the methods have picked."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from led_sglang.kernels import ThinkPhase
from led_sglang.methods.base import Picks
from led_sglang.methods.reporting import Record
from led_sglang.methods.rows import RowTable
from led_sglang.phase import StepInputs


@dataclass
class BatchStep:
    """One call of the sampler, or one verification of drafts, whose rows are the drafted nodes.

    Attributes:
        inputs: slots of the rows, and states of those that were just prefilled.
        table: of the rows.
        positions: [B] of each row's last token.
        phase: of the rows; None without a think phase.
        picks: of the methods, once they have decided.
    """

    inputs: StepInputs
    table: RowTable
    positions: Tensor
    phase: ThinkPhase | None
    picks: list[Picks] = field(default_factory=list)
    _taken_over: bool = False

    def take_over(self, token_ids: Tensor) -> None:
        """Write the methods' tokens over the engine's, in place, in the rows they own."""
        if self._taken_over:
            return
        # A pick that settles the step moves on all rows' phases: it comes last.
        for picks in sorted(self.picks, key=lambda picks: picks.settle is not None):
            if picks.settle is not None:
                picks.settle(token_ids, True)
            else:
                token_ids.copy_(torch.where(picks.owned, picks.token_ids, token_ids.long()))
        self._taken_over = True

    def finish(self, token_ids: Tensor, changed: bool) -> None:
        """Move the think phases on by the tokens, unless a pick has and they have not `changed`
        since."""
        settled = next((picks.settle for picks in self.picks if picks.settle is not None), None)
        if settled is None:
            if self.phase is not None:
                self.phase.finish(token_ids)
        elif changed:
            settled(token_ids, False)

    def records(self) -> list[Record]:
        """What the methods want the host to know."""
        return [picks.record for picks in self.picks if picks.record is not None]

    def reported_logprobs(self, logprobs: Tensor, rows: Tensor | None = None) -> Tensor:
        """Log-probabilities of the tokens: log q where a row asked for it and LED drew.

        Args:
            logprobs: the engine's, [B] or any shape if `rows` are given.
            rows: of which they are, in the same shape.
        """
        for picks in self.picks:
            if (behaviour := picks.behaviour) is not None:
                # Zero has no place in an answer: the least number stands for it, as the engine's.
                log_q = behaviour.logprobs.clamp(min=torch.finfo(torch.float32).min)
                ours = picks.owned & behaviour.reported
                if rows is not None:
                    log_q, ours = log_q[rows], ours[rows]
                logprobs = torch.where(ours, log_q, logprobs)
        return logprobs
