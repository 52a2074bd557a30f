"""What ranks exchange of a latent row: its logsumexp, folded over tiles, and candidate logits.

See docs/method.md#latent-posteriors. A piece of work is one row's fold, or one candidate's dot
product over the whole hidden size: nothing in it is serial.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..types import FinalPosterior, LedRows, LmHeadShard
from .latent_lse_kernel import soft_cap
from .launch import Arguments, Kernel
from .tiles import Chip, column_tiles
from .workspace import StepWorkspace

# Fixed whatever the batch asks for: the order of every sum, and so its last bit, hangs on it.
_TILES_AT_ONCE = 1024
# Programs per multiprocessor: all latency, so as many as fit.
_PROGRAMS = 8


@triton.jit(
    do_not_specialize=[
        *("first", "layers", "candidates", "window", "columns", "column_tiles", "vocab_start"),
        *("logit_scale", "softcap"),
    ],
    do_not_specialize_on_alignment=["temperature", "ids"],
)
def latent_partials_kernel(
    weight,  # [columns, hidden]
    first,
    ids,  # [B, candidates] int64
    temperature,  # [B] f32
    layers,
    candidates,
    latent_rows,  # [window, hidden]
    row_scale,  # [window] f32, log2(e) / T
    tile_max,  # [window, column_tiles] f32
    tile_sum,
    live_rows,  # [B * layers] int32
    live_count,  # [1] int32
    partials,  # [B * layers, candidates + 2] f32
    window,
    hidden,
    weight_stride,
    columns,
    column_tiles,
    vocab_start,
    logit_scale,
    softcap,
    HAS_SOFTCAP: tl.constexpr,
    TILES: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    count = tl.minimum(tl.load(live_count) - first, window)
    pieces = candidates + 1
    for part in tl.range(tl.program_id(0), count * pieces, tl.num_programs(0)):
        slot = (part // pieces).to(tl.int64)
        piece = part % pieces
        flat = tl.load(live_rows + first + slot)
        request = flat // layers
        out = partials + flat.to(tl.int64) * (candidates + 2)
        t = tl.load(temperature + request)
        if piece == candidates:
            peak = tl.full([], -float("inf"), tl.float32)
            total = tl.full([], 0.0, tl.float32)
            scale = tl.load(row_scale + slot)
            tile = tl.arange(0, TILES)
            for start in range(0, column_tiles, TILES):
                at = slot * column_tiles + start + tile
                inside = start + tile < column_tiles
                maxima = tl.load(tile_max + at, mask=inside, other=-float("inf"))
                peak = tl.maximum(peak, tl.max(maxima, 0))
            for start in range(0, column_tiles, TILES):
                at = slot * column_tiles + start + tile
                inside = start + tile < column_tiles
                maxima = tl.load(tile_max + at, mask=inside, other=-float("inf"))
                sums = tl.load(tile_sum + at, mask=inside, other=0.0)
                # A tile that saw nothing has sum 0, or NaN, which must not be lost.
                decay = tl.where(maxima == -float("inf"), 1.0, tl.exp2((maxima - peak) * scale))
                total += tl.sum(sums * decay, 0)
            tl.store(out, peak / t)
            tl.store(out + 1, total)
        else:
            local = tl.load(ids + request.to(tl.int64) * candidates + piece) - vocab_start
            owned = (local >= 0) & (local < columns)
            at = tl.arange(0, BLOCK_H)
            inside = at < hidden
            h = tl.load(latent_rows + slot * hidden + at, mask=inside, other=0.0)
            w = tl.load(weight + local * weight_stride + at, mask=inside & owned, other=0.0)
            z = tl.sum(w.to(tl.float32) * h.to(tl.float32), 0) * logit_scale
            if HAS_SOFTCAP:
                z = soft_cap(z, softcap)
            tl.store(out + 2 + piece, tl.where(owned, z / t, 0.0))


class LatentPartials:
    """This rank's share of the latent posteriors, [B * layers, K + 2] f32 in the workspace: max,
    sum of exponentials, K logits, all over T; rows that are not listed hold anything.

    Args:
        head: this rank's shard; it has a weight.
        workspace: holds what `LatentLse` left.
        chip: that it runs on.
    """

    def __init__(self, head: LmHeadShard, workspace: StepWorkspace, chip: Chip) -> None:
        weight = head.weight
        assert weight is not None
        assert weight.stride(1) == 1
        assert column_tiles(head.valid) <= workspace.tile_max.shape[1]
        self._weight, self._workspace, self._chip = weight, workspace, chip
        self._kernel = Kernel(
            latent_partials_kernel,
            4,
            HAS_SOFTCAP=head.softcap is not None,
            TILES=_TILES_AT_ONCE,
            BLOCK_H=triton.next_power_of_2(weight.shape[1]),
        )
        self._of_head = (
            workspace.latent_rows.shape[0],
            weight.shape[1],
            weight.stride(0),
            head.valid,
            workspace.tile_max.shape[1],
            head.vocab_start,
            1.0 if head.logit_scale is None else head.logit_scale,
            1.0 if head.softcap is None else head.softcap,
        )

    def staying(self, final: FinalPosterior, rows: LedRows, layers: int) -> Arguments:
        """The arguments of a batch; layers: latent layers per request."""
        workspace, ids = self._workspace, final.ids.contiguous()
        assert ids.shape[1] <= workspace.candidates
        return Arguments(
            ids,
            rows.temperature,
            layers,
            ids.shape[1],
            workspace.latent_rows,
            workspace.row_scale,
            workspace.tile_max,
            workspace.tile_sum,
            workspace.live_rows,
            workspace.live_count,
            workspace.partials,
            *self._of_head,
        )

    def bind(self, staying: Arguments) -> None:
        """Compile it, and launch it once."""
        self._kernel.bind((1, 1), (self._weight, 0), staying)

    def __call__(
        self, stream: object, first: int, at_most: int, candidates: int, staying: Arguments
    ) -> None:
        """Launch it for the window that begins at `first` of the list, of `at_most` rows."""
        grid = (min(at_most * (candidates + 1), _PROGRAMS * self._chip.multiprocessors), 1)
        self._kernel(stream, grid, (self._weight, first), staying)

    def result(self, batch: int, layers: int, candidates: int) -> Tensor:
        """[B * layers, K + 2], where the launches write."""
        size = batch * layers * (candidates + 2)
        return self._workspace.partials[:size].view(-1, candidates + 2)
