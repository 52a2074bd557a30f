"""Memory of a step, allocated once: what one kernel leaves for the next, and the step's results."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ..types import SUMMARY
from .tiles import column_tiles

# Latent rows that go through the LM head together: 256 requests of depth 8 are 1792. More explorers
# take another pass over the weight, which costs nothing at this size: arithmetic is the limit.
WINDOW_ROWS = 2048


class StepWorkspace:
    """Scratch and results, from the gate on, of up to `batch` requests with `layers` latent layers.

    One stream at a time may use it. capacity = batch * layers; window = rows of one pass.

    Args:
        batch, layers, candidates: of the largest step.
        weight: [>= columns, H], the LM head shard's; its device and dtype count.
        columns: of the shard.
    """

    def __init__(
        self, batch: int, layers: int, candidates: int, weight: Tensor, columns: int
    ) -> None:
        self.batch, self.layers, self.candidates = batch, layers, candidates
        capacity = batch * layers
        self.window = min(capacity, WINDOW_ROWS)
        empty = partial(torch.empty, dtype=torch.float32, device=weight.device)
        # gate
        self.explored = empty(batch, dtype=torch.bool)
        self.explore_probability = empty(batch, dtype=torch.float64)
        self.projected = empty(batch, dtype=torch.bool)
        self.owned = empty(batch, dtype=torch.bool)
        self.thinks = empty(batch, dtype=torch.bool)
        self.states = empty(batch, dtype=torch.int64)
        self.phases = empty(batch, dtype=torch.int64)
        self.no_step = empty(1, dtype=torch.int64).zero_()  # in place of a stream that stays
        self.live_rows = empty(capacity, dtype=torch.int32)  # the list: request * layers + layer
        self.live_count = empty(1, dtype=torch.int32)
        self.live_total = empty(1, dtype=torch.int64).zero_()  # over all steps
        # latent_lse, one window of the list at a time
        self.latent_rows = empty(self.window, weight.shape[1], dtype=weight.dtype)
        self.row_scale = empty(self.window)
        self.tile_max = empty(self.window, column_tiles(columns))
        self.tile_sum = torch.empty_like(self.tile_max)
        # partials and combine
        self.partials = empty(capacity * (candidates + 2))  # what ranks exchange
        self.token_ids = empty(batch, dtype=torch.int64)
        self.depth = empty(batch, dtype=torch.int64)
        self.layer_probs = empty(batch * (layers + 1) * candidates)
        self.behaviour_probs = empty(batch * candidates)
        self.behaviour_logprob = empty(batch)
        self.summary = empty(batch, len(SUMMARY))  # of a step that nobody asked it of

    def windows(self, batch: int, layers: int) -> range:
        """Where in the list of live rows each pass over the LM head begins; there are as many as
        the list could ever fill, and those beyond its end do nothing."""
        return range(0, batch * layers, max(self.window, 1))


def workspace_bytes(workspace: object) -> int:
    """Device memory held by the tensors of a workspace."""
    held = vars(workspace).values()
    return sum(t.numel() * t.element_size() for t in held if isinstance(t, Tensor))
