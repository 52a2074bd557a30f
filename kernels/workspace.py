"""Memory of a step, allocated once: what one kernel leaves for the next."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from .latent_lse import column_tiles


@dataclass(frozen=True)
class StepWorkspace:
    """Scratch of K1 to K4 for up to ``batch`` requests with ``layers`` latent layers each. One
    stream at a time may use it. capacity = batch * layers."""

    batch: int
    layers: int
    candidates: int
    explore_probability: Tensor  # [batch] f64
    projected: Tensor  # [batch] bool
    slot_of: Tensor  # [capacity] int32
    live_rows: Tensor  # [capacity] int32
    live_count: Tensor  # [1] int32
    latent_rows: Tensor  # [capacity, H], the weight's dtype
    row_scale: Tensor  # [capacity] f32
    tile_max: Tensor  # [capacity, column tiles] f32
    tile_sum: Tensor  # [capacity, column tiles] f32
    partials: Tensor  # [capacity * (candidates + 2)] f32, what ranks exchange

    @classmethod
    def allocate(
        cls, batch: int, layers: int, candidates: int, weight: Tensor, columns: int
    ) -> StepWorkspace:
        """For an LM head shard ``weight`` [>= columns, H], on its device."""
        device, capacity = weight.device, batch * layers

        def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=device)

        tiles = column_tiles(columns)
        return cls(
            batch=batch,
            layers=layers,
            candidates=candidates,
            explore_probability=empty(batch, dtype=torch.float64),
            projected=empty(batch, dtype=torch.bool),
            slot_of=empty(capacity, dtype=torch.int32),
            live_rows=empty(capacity, dtype=torch.int32),
            live_count=empty(1, dtype=torch.int32),
            latent_rows=empty(capacity, weight.shape[1], dtype=weight.dtype),
            row_scale=empty(capacity),
            tile_max=empty(capacity, tiles),
            tile_sum=empty(capacity, tiles),
            partials=empty(capacity * (candidates + 2)),
        )

    def fits(self, batch: int, layers: int, candidates: int, weight: Tensor, columns: int) -> bool:
        """Whether a step of this size on this LM head shard can run here."""
        return (
            batch <= self.batch
            and layers <= self.layers
            and candidates <= self.candidates
            and self.latent_rows.shape[1] == weight.shape[1]
            and self.latent_rows.dtype == weight.dtype
            and self.latent_rows.device == weight.device
            and self.tile_max.shape[1] == column_tiles(columns)
        )


def workspace_bytes(workspace: object) -> int:
    """Device memory held by the tensors of a workspace dataclass."""
    tensors = (getattr(workspace, f.name) for f in fields(workspace))  # type: ignore[arg-type]
    return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor))
