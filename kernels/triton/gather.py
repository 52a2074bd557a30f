"""The live latent rows, gathered for the LM head one window of their list at a time."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..types import FinalNorm, LedRows
from .launch import Arguments, Kernel
from .tiles import Chip
from .workspace import StepWorkspace

_HIDDEN_AT_ONCE = 1024
# Programs per multiprocessor: all latency, so as many as fit.
_PROGRAMS = 8


@triton.jit(
    do_not_specialize=["first", "window", "layers", "captured"],
    do_not_specialize_on_alignment=["temperature", "release_layers"],
)
def gather_latents_kernel(
    latents,  # [B, captured, hidden], deepest first
    request_stride,
    layer_stride,
    captured,
    first,
    temperature,  # [B] f32
    release_layers,  # [B] bool
    layers,
    live_rows,
    live_count,
    latent_rows,  # [window, hidden]
    row_scale,  # [window] f32
    window,
    hidden,
    BLOCK: tl.constexpr,
):
    blocks = tl.cdiv(hidden, BLOCK)
    count = tl.minimum(tl.load(live_count) - first, window)
    for part in tl.range(tl.program_id(0), count * blocks, tl.num_programs(0)):
        slot = part // blocks
        block = part % blocks
        flat = tl.load(live_rows + first + slot)
        request = flat // layers
        below_final = flat % layers + tl.load(release_layers + request).to(tl.int32)
        at = block * BLOCK + tl.arange(0, BLOCK)
        source = (
            latents
            + request.to(tl.int64) * request_stride
            + (captured - 1 - below_final).to(tl.int64) * layer_stride
        )
        h = tl.load(source + at, mask=at < hidden)
        out = latent_rows + slot.to(tl.int64) * hidden + at
        tl.store(out, h.to(latent_rows.dtype.element_ty), mask=at < hidden)
        if block == 0:
            tl.store(row_scale + slot, 1.4426950408889634 / tl.load(temperature + request))


class GatherLatents:
    """One window of the live rows into workspace.latent_rows, with log2(e) / T in row_scale.

    Args:
        workspace: holds the list of live rows.
        chip: that it runs on.
        final_norm: the model's. It is torch's, and allocates: it sees a fixed number of rows, of
            which those beyond the live count hold anything.
    """

    def __init__(self, workspace: StepWorkspace, chip: Chip, final_norm: FinalNorm | None) -> None:
        self._workspace, self._chip, self._final_norm = workspace, chip, final_norm
        self._kernel = Kernel(gather_latents_kernel, 4, BLOCK=_HIDDEN_AT_ONCE)

    def staying(self, rows: LedRows, layers: int) -> Arguments:
        """The arguments of a batch; layers: latent layers per request."""
        workspace = self._workspace
        window, hidden = workspace.latent_rows.shape
        return Arguments(
            rows.temperature,
            rows.release_layers,
            layers,
            workspace.live_rows,
            workspace.live_count,
            workspace.latent_rows,
            workspace.row_scale,
            window,
            hidden,
        )

    def bind(self, latents: Tensor, staying: Arguments) -> None:
        """Compile it for latents like these, and launch it once."""
        self._kernel.bind((1, 1), self._changing(latents, 0), staying)

    def __call__(
        self, stream: object, latents: Tensor, first: int, at_most: int, staying: Arguments
    ) -> None:
        """Launch it for the window that begins at `first` of the list, of `at_most` rows."""
        blocks = triton.cdiv(latents.shape[2], _HIDDEN_AT_ONCE)
        grid = (min(at_most * blocks, _PROGRAMS * self._chip.multiprocessors), 1)
        changing = self._changing(latents, first)
        # All of a kernel's variants would be sixteen: aligned latents are what models make.
        aligned = (latents.data_ptr() | changing[1] | changing[2]) % 16 == 0
        self._kernel(stream, grid, changing, staying, aligned=aligned)

    @staticmethod
    def _changing(latents: Tensor, first: int) -> tuple[Tensor, int, int, int, int]:
        request_stride, layer_stride, _ = latents.stride()
        return latents, request_stride, layer_stride, latents.shape[1], first

    def normalise(self, rows: LedRows, layers: int, first: int, at_most: int) -> None:
        """The model's final norm on those of the window's rows that want it."""
        assert self._final_norm is not None
        workspace = self._workspace
        gathered = workspace.latent_rows[:at_most]
        # Entries beyond the live count are stale: any request will do for them.
        request = workspace.live_rows[first : first + at_most] // layers
        request = request.clamp(0, len(rows.final_norm) - 1)
        wants = rows.final_norm.index_select(0, request)[:, None]
        normed = self._final_norm(gathered).to(gathered.dtype)
        gathered.copy_(torch.where(wants, normed, gathered))
