"""Memory of a step, allocated once: what one kernel leaves for the next, and the step's results."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from .tiles import column_tiles

# Latent rows that go through the LM head together: 256 requests of depth 8 are 1792. More explorers
# take another pass over the weight, which costs nothing at this size: arithmetic is the limit.
WINDOW_ROWS = 2048


@dataclass(frozen=True)
class StepWorkspace:
    """Scratch and results, from the gate on, of up to `batch` requests with `layers` latent layers.

    One stream at a time may use it. capacity = batch * layers; window = rows of one pass.
    """

    batch: int
    layers: int
    candidates: int
    window: int
    # gate
    explored: Tensor  # [batch] bool
    explore_probability: Tensor  # [batch] f64
    projected: Tensor  # [batch] bool
    live_rows: Tensor  # [capacity] int32, the list: request * layers + layer
    live_count: Tensor  # [1] int32
    live_total: Tensor  # [1] int64, over all steps
    # latent_lse, one window of the list at a time
    latent_rows: Tensor  # [window, H], the weight's dtype
    row_scale: Tensor  # [window] f32
    tile_max: Tensor  # [window, column tiles] f32
    tile_sum: Tensor  # [window, column tiles] f32
    # partials and combine
    partials: Tensor  # [capacity * (candidates + 2)] f32, what ranks exchange
    token_ids: Tensor  # [batch] int64
    depth: Tensor  # [batch] int64
    layer_probs: Tensor  # [batch * (layers + 1) * candidates] f32
    behaviour_probs: Tensor  # [batch * candidates] f32
    behaviour_logprob: Tensor  # [batch] f32

    @classmethod
    def allocate(
        cls, batch: int, layers: int, candidates: int, weight: Tensor, columns: int
    ) -> StepWorkspace:
        """For an LM head shard `weight` [>= columns, H], on its device."""
        device, capacity = weight.device, batch * layers
        window, tiles = min(capacity, WINDOW_ROWS), column_tiles(columns)

        def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=device)

        return cls(
            batch=batch,
            layers=layers,
            candidates=candidates,
            window=window,
            explored=empty(batch, dtype=torch.bool),
            explore_probability=empty(batch, dtype=torch.float64),
            projected=empty(batch, dtype=torch.bool),
            live_rows=empty(capacity, dtype=torch.int32),
            live_count=empty(1, dtype=torch.int32),
            live_total=torch.zeros(1, dtype=torch.int64, device=device),
            latent_rows=empty(window, weight.shape[1], dtype=weight.dtype),
            row_scale=empty(window),
            tile_max=empty(window, tiles),
            tile_sum=empty(window, tiles),
            partials=empty(capacity * (candidates + 2)),
            token_ids=empty(batch, dtype=torch.int64),
            depth=empty(batch, dtype=torch.int64),
            layer_probs=empty(batch * (layers + 1) * candidates),
            behaviour_probs=empty(batch * candidates),
            behaviour_logprob=empty(batch),
        )

    def windows(self, batch: int, layers: int) -> range:
        """Where in the list of live rows each pass over the LM head begins; there are as many as
        the list could ever fill, and those beyond its end do nothing."""
        return range(0, batch * layers, max(self.window, 1))


def workspace_bytes(workspace: object) -> int:
    """Device memory held by the tensors of a workspace dataclass."""
    tensors = (getattr(workspace, f.name) for f in fields(workspace))  # type: ignore[arg-type]
    return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor))
