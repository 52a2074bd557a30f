"""After the engine has sampled: LED's tokens over the engine's, and the think phase moves on."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..phase import ThinkPhase
from .launch import Arguments, Kernel
from .workspace import StepWorkspace

_ROWS_AT_ONCE = 128


@triton.jit(
    do_not_specialize=["takes", "tracked", "classes", "outside", "batch"],
    do_not_specialize_on_alignment=["token_ids", "slots"],
)
def settle_kernel(
    token_ids,  # [B] int32 or int64
    takes,  # whether LED's tokens are written
    tracked,  # whether there is a think phase; the rest up to `outside` is read then
    slots,  # [B] int64
    states,  # [slots] int64
    token_class,  # [outside + 1] int64
    transitions,  # [states, classes] int64
    classes,
    outside,
    owned,  # [B] bool
    picks,  # [B] int64
    before,  # [B] int64, states before this step's token
    batch,
    ROWS: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    real = row < batch
    token = tl.load(token_ids + row, mask=real, other=0).to(tl.int64)
    if takes != 0:
        mine = tl.load(owned + row, mask=real, other=False)
        token = tl.where(mine, tl.load(picks + row, mask=real, other=0), token)
        tl.store(token_ids + row, token.to(token_ids.dtype.element_ty), mask=real)
    if tracked != 0:
        # An id outside the vocabulary is no delimiter token: the last entry stands for it.
        known = (token >= 0) & (token < outside)
        kind = tl.load(token_class + tl.where(known, token, outside))
        state = tl.load(before + row, mask=real, other=0)
        state = tl.load(transitions + state * classes + kind, mask=real, other=0)
        tl.store(states + tl.load(slots + row, mask=real, other=0), state, mask=real)


class Settle:
    """The launch that follows the engine's sampling.

    Args:
        workspace: holds what the step has decided.
    """

    def __init__(self, workspace: StepWorkspace) -> None:
        self._workspace = workspace
        self._kernels = {
            dtype: Kernel(settle_kernel, 4, ROWS=_ROWS_AT_ONCE)
            for dtype in (torch.int32, torch.int64)
        }

    def staying(self, batch: int) -> Arguments:
        """The arguments of a batch."""
        workspace = self._workspace
        return Arguments(workspace.owned, workspace.token_ids, workspace.states, batch)

    def bind(self) -> None:
        """Compile it for each type of token ids, and launch it once, for no row."""
        for dtype, kernel in self._kernels.items():
            ids = torch.zeros(1, dtype=dtype, device=self._workspace.states.device)
            kernel.bind((1, 1), self._changing(ids, None, takes=True), self.staying(0))

    def __call__(
        self,
        stream: object,
        token_ids: Tensor,
        phase: ThinkPhase | None,
        staying: Arguments,
        *,
        takes: bool,
    ) -> None:
        """Launch it, see `Step.settle`."""
        grid = (triton.cdiv(len(token_ids), _ROWS_AT_ONCE), 1)
        changing = self._changing(token_ids, phase, takes=takes)
        self._kernels[token_ids.dtype](stream, grid, changing, staying)

    def _changing(
        self, token_ids: Tensor, phase: ThinkPhase | None, *, takes: bool
    ) -> tuple[object, ...]:
        if phase is None:
            unread = self._workspace.states
            return (token_ids, int(takes), 0, unread, unread, unread, unread, 0, 0)
        tables = phase.tables
        return (
            token_ids,
            int(takes),
            1,
            phase.slots,
            phase.states,
            tables.token_class,
            tables.transitions,
            tables.transitions.shape[1],
            tables.token_class.shape[0] - 1,
        )
