"""The live latent rows, gathered for the LM head one window of their list at a time."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..types import FinalNorm, LedRows
from .workspace import StepWorkspace, tensors

_HIDDEN_AT_ONCE = 1024


@triton.jit(
    do_not_specialize=["first", "layers", "captured"],
    do_not_specialize_on_alignment=["temperature", "release_layers"],
)
def gather_latents_kernel(
    latents,  # [B, captured, HIDDEN], deepest first
    temperature,  # [B] f32
    release_layers,  # [B] bool
    live_rows,
    live_count,
    latent_rows,  # [window, HIDDEN]
    row_scale,  # [window] f32
    request_stride,
    layer_stride,
    first,
    layers,
    captured,
    HIDDEN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    slot = tl.program_id(0)
    if first + slot >= tl.load(live_count):
        return
    flat = tl.load(live_rows + first + slot)
    request = flat // layers
    below_final = flat % layers + tl.load(release_layers + request).to(tl.int32)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    source = (
        latents
        + request.to(tl.int64) * request_stride
        + (captured - 1 - below_final).to(tl.int64) * layer_stride
    )
    h = tl.load(source + at, mask=at < HIDDEN)
    out = latent_rows + slot.to(tl.int64) * HIDDEN + at
    tl.store(out, h.to(latent_rows.dtype.element_ty), mask=at < HIDDEN)
    if tl.program_id(1) == 0:
        tl.store(row_scale + slot, 1.4426950408889634 / tl.load(temperature + request))


def gather_latents(
    latents: Tensor,
    rows: LedRows,
    layers: int,
    first: int,
    workspace: StepWorkspace,
    final_norm: FinalNorm | None,
) -> None:
    """One window of the live rows into workspace.latent_rows, with log2(e) / T in row_scale.

    Args:
        latents: [B, C, H].
        layers: latent layers per request.
        first: index of the window into the list of live rows, which the workspace holds.
        final_norm: None if no row wants it. It sees a fixed number of rows, of which those beyond
            the live count hold anything; each row keeps its norm's result only if it wants it. It
            is torch's, and allocates.
    """
    batch, captured, hidden = latents.shape
    count = min(workspace.window, batch * layers - first)
    assert latents.stride(2) == 1
    assert hidden == workspace.latent_rows.shape[1]
    gather_latents_kernel[(count, triton.cdiv(hidden, _HIDDEN_AT_ONCE))](
        latents=latents,
        **tensors(rows, "temperature", "release_layers"),
        **tensors(workspace, "live_rows", "live_count", "latent_rows", "row_scale"),
        request_stride=latents.stride(0),
        layer_stride=latents.stride(1),
        first=first,
        layers=layers,
        captured=captured,
        HIDDEN=hidden,
        BLOCK=_HIDDEN_AT_ONCE,
        num_warps=4,
    )
    if final_norm is None:
        return
    gathered = workspace.latent_rows[:count]
    # Entries beyond the live count are stale: any request will do for them.
    request = (workspace.live_rows[first : first + count] // layers).clamp(0, batch - 1)
    wants = rows.final_norm.index_select(0, request)[:, None]
    gathered.copy_(torch.where(wants, final_norm(gathered).to(gathered.dtype), gathered))
