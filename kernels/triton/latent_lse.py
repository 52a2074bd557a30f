"""What launches the latent logsumexp (latent_lse_kernel.py): tiles for the card, and how the kernel
reads the weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from ..types import LmHeadShard
from .latent_lse_kernel import latent_lse_kernel
from .launch import Arguments, Kernel
from .tiles import BLOCK_COLUMNS, HALVES, Chip, Table, column_tiles, table_for
from .workspace import StepWorkspace


def wants_descriptors(weight: Tensor, chip: Chip) -> bool:
    """Whether the copy engine of sm_90 may read this weight: its rows must start on 16 bytes."""
    return (
        chip.has_copy_engine
        and weight.data_ptr() % 16 == 0
        and weight.stride(0) * weight.element_size() % 16 == 0
        and weight.shape[1] * weight.element_size() % 16 == 0
    )


class LatentLse:
    """The logsumexp of a window as partials: per row and tile of columns, the largest logit and the
    sum of exp((logit - largest) / T).

    Args:
        head: this rank's shard; it has a weight.
        workspace: holds the gathered rows; takes tile_max and tile_sum. Rows beyond its live count
            are neither computed nor written.
        chip: that it runs on.
        descriptors: whether to read by descriptors; None chooses by `head.weight`.
    """

    def __init__(
        self,
        head: LmHeadShard,
        workspace: StepWorkspace,
        chip: Chip,
        descriptors: bool | None = None,
    ) -> None:
        weight = head.weight
        assert weight is not None, "the kernel needs the weight itself"
        assert weight.stride(1) == 1
        assert workspace.latent_rows.dtype == weight.dtype
        assert workspace.latent_rows.shape[1] == weight.shape[1]
        self._head, self._weight, self._workspace = head, weight, workspace
        self._chip = chip
        wanted = wants_descriptors(weight, self._chip)
        self._descriptors = wanted if descriptors is None else descriptors
        self._launches: dict[int, _Launch] = {}

    def __call__(self, stream: object, first: int, at_most: int) -> None:
        """Launch it for the window that begins at `first` of the list, of `at_most` rows."""
        if self._head.valid == 0:
            return
        launch = self._launches.get(at_most) or self._prepare(at_most)
        if launch.address != self._weight.data_ptr():  # an update may bring other memory
            launch.address = self._weight.data_ptr()
            launch.staying = launch.kernel.encoded(self._arguments(launch.table))
        launch.kernel(stream, launch.grid, (first,), launch.staying)

    def bind(self, at_most: int) -> None:
        """Compile what serves windows of so many rows, and launch it once."""
        if self._head.valid > 0:
            launch = self._prepare(at_most)
            if not launch.kernel.bound:
                launch.kernel.bind(launch.grid, (0,), launch.staying)
            launch.address = 0

    def _prepare(self, at_most: int) -> _Launch:
        table = table_for(self._chip.card, at_most, self._weight.dtype)
        for other in self._launches.values():
            if other.table is table:
                self._launches[at_most] = other
                return other
        kernel = Kernel(
            latent_lse_kernel,
            table.warps,
            TILES=table.flat,
            COUNT=len(table.tiles),
            BLOCK_V=BLOCK_COLUMNS,
            HAS_SOFTCAP=self._head.softcap is not None,
            DESCRIPTORS=self._descriptors,
            UPCAST=self._chip.interpreted and self._weight.dtype != torch.float32,
        )
        grid = (self._chip.multiprocessors * table.programs, 1)
        launch = _Launch(table, kernel, grid, self._arguments(table), 0)
        self._launches[at_most] = launch
        return launch

    def _arguments(self, table: Table) -> Arguments:
        weight, workspace, head = self._weight, self._workspace, self._head
        rows = workspace.latent_rows
        tensors: list[Tensor | TensorDescriptor] = [weight, rows, rows, rows, rows]
        if self._descriptors:
            (block,) = {tile.block for tile in table.tiles}
            tensors = [TensorDescriptor.from_tensor(weight[: head.valid], [BLOCK_COLUMNS, block])]
            tensors += [TensorDescriptor.from_tensor(rows, [half, block]) for half in HALVES]
        return Arguments(
            *tensors,
            workspace.row_scale,
            workspace.live_count,
            workspace.tile_max,
            workspace.tile_sum,
            rows.shape[0],
            weight.shape[1],
            weight.stride(0),
            head.valid,
            column_tiles(head.valid),
            1.0 if head.logit_scale is None else head.logit_scale,
            1.0 if head.softcap is None else head.softcap,
        )


@dataclass
class _Launch:
    """What serves a table of row tiles, for the weight at an address."""

    table: Table
    kernel: Kernel
    grid: tuple[int, int]
    staying: Arguments
    address: int
