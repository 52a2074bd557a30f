"""The LED step in plain torch, on any device.

On CUDA every shape is static and nothing asks the device for a value, so CUDA graphs and the
overlap scheduler stay on; the price is that every row is projected. On a CPU only the rows that
need it are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..types import (
    AllGather,
    FinalNorm,
    FinalPosterior,
    LedLimits,
    LedResult,
    LedRows,
    LmHeadShard,
    StepNoise,
)
from .combine import combine
from .gate import Decision, gate_rows
from .latent_lse import latent_partials
from .noise import draw_noise
from .posterior import final_posterior
from .whole import StepByParts


class EagerStep(StepByParts):
    """`Step` in plain torch: takes whatever it is given, and needs no preparation.

    Args:
        head: this rank's shard of the LM head.
        final_norm, all_gather: see `prepare`.
        reason: why it serves in the place of a compiled step; None where it was asked for.
    """

    name = "torch"
    projected: Tensor | None = None  # what a CPU projects is in the results; a GPU projects all

    def __init__(
        self,
        head: LmHeadShard,
        *,
        final_norm: FinalNorm | None = None,
        all_gather: AllGather | None = None,
        reason: str | None = None,
    ) -> None:
        self.reason = reason
        self._head = head
        self._final_norm = final_norm
        self._all_gather = all_gather

    final_posterior = staticmethod(final_posterior)
    draw_noise = staticmethod(draw_noise)

    def led_step(
        self,
        final: FinalPosterior,
        latents: Tensor,
        rows: LedRows,
        limits: LedLimits,
        noise: StepNoise,
    ) -> LedResult:
        """See `Step.led_step`. A row whose latents hold NaN falls back to its final layer."""
        refuse_what_is_missing(latents, limits, self._head, self._final_norm)
        decision = gate_rows(final, rows, limits, noise)
        gathered: Tensor | None = None
        projected_rows: int | None = 0
        if limits.depth > 1:
            partials, projected_rows = self._project(final, latents, rows, limits, decision)
            if self._all_gather is not None:
                gathered = self._all_gather(partials)
            elif projected_rows != 0:
                gathered = partials[None]
        return combine(gathered, final, rows, limits, noise, decision, projected_rows)

    def _project(
        self,
        final: FinalPosterior,
        latents: Tensor,
        rows: LedRows,
        limits: LedLimits,
        decision: Decision,
    ) -> tuple[Tensor, int | None]:
        """This rank's part of the latent posteriors: (max, sumexp, K logits) [B * (D - 1), K + 2]
        fp32, and how many rows were projected. Rows that are not live hold (-inf, 0, 0...)."""
        live = decision.layer_live[:, 1:]
        partials = final.logprobs.new_zeros(live.numel(), final.ids.shape[1] + 2)
        partials[:, 0].fill_(-torch.inf)
        index = _rows_to_project(live)
        projected_rows = index.shape[0] if live.device.type == "cpu" else None
        if index.shape[0] == 0:
            return partials, projected_rows

        layers = live.shape[1]
        request = index // layers
        row_live = live.reshape(-1).index_select(0, index)
        captured = index % layers + rows.release_layers.index_select(0, request)
        # Rows projected for their shape only may point past the captured layers: any will do.
        below_final = torch.where(row_live, captured, 0)
        hidden = latents[request, latents.shape[1] - 1 - below_final]
        if limits.final_norm and self._final_norm is not None:
            wants_norm = rows.final_norm.index_select(0, request)[:, None]
            hidden = torch.where(wants_norm, self._final_norm(hidden), hidden)
        peak, total, logits = latent_partials(
            hidden,
            rows.temperature.index_select(0, request),
            final.ids.index_select(0, request),
            self._head,
        )
        packed = torch.cat([peak[:, None], total[:, None], logits], dim=1)
        nothing = partials[:1]
        packed = torch.where(row_live[:, None], packed, nothing)
        return partials.index_copy_(0, index, packed), projected_rows


def refuse_what_is_missing(
    latents: Tensor, limits: LedLimits, head: LmHeadShard, final_norm: FinalNorm | None
) -> None:
    """Check what every step needs.

    Raises:
        ValueError: latents [B, C, H] are too few for limits.depth or not as wide as the LM head, or
            final_norm is missing.
    """
    _, layers, width = latents.shape
    if layers < limits.depth - 1:
        raise ValueError(f"{layers} latent layers are too few for depth {limits.depth}")
    if limits.depth > 1 and head.weight is not None and width != head.weight.shape[1]:
        raise ValueError(f"latents are {width} wide where the LM head takes {head.weight.shape[1]}")
    if limits.final_norm and final_norm is None:
        raise ValueError("a row wants final_norm, but no norm was given")


def _rows_to_project(live: Tensor) -> Tensor:
    """Flat indices into live [B, D - 1]: only the live ones on a CPU, all of them on CUDA, where a
    count that depends on data would stall the host."""
    if live.device.type == "cpu":
        return live.reshape(-1).nonzero()[:, 0]
    return torch.arange(live.numel(), device=live.device)
