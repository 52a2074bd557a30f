"""K1 and K2: who explores (step 6), the list of latent rows that need the LM head, their gathering.

The list is a prefix sum, never an atomic counter: ranks of a tensor-parallel group must agree on
the order of rows without a word between them.
"""

# Kernels are compiled, never called by Python: what their arguments are stands beside each.
# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

from collections.abc import Callable

import triton
import triton.language as tl
from torch import Tensor, float64, where

from .types import FinalPosterior, Gate, LedRows, StepNoise
from .workspace import StepWorkspace

_ALWAYS = tl.constexpr(int(Gate.ALWAYS))
_NEVER = tl.constexpr(int(Gate.NEVER))
_ENTROPY = tl.constexpr(int(Gate.ENTROPY))
_RATE = tl.constexpr(int(Gate.RATE))

_ROWS_AT_ONCE = 256
_HIDDEN_AT_ONCE = 1024

_GATE_ARGUMENTS = [
    "p1",
    "entropy",
    "gate_noise",
    "gate",
    "gate_value",
    "greedy",
    "random_gate",
    "owns",
    "thinks",
    "projects",
    "depth",
]


@triton.jit(
    do_not_specialize=["batch", "layers"],
    do_not_specialize_on_alignment=[*_GATE_ARGUMENTS, "explored_out"],
)
def gate_compact_kernel(
    p1,  # [B] f32
    entropy,  # [B] f32
    gate_noise,  # [B] f64
    gate,  # [B] int64
    gate_value,  # [B] f32
    greedy,  # [B] bool, as the next five
    random_gate,
    owns,
    thinks,
    projects,
    depth,  # [B] int64
    explored_out,  # [B] bool
    explore_probability,  # [B] f64
    projected_out,  # [B] bool
    live_rows,  # [capacity] int32, the list: request * layers + layer
    live_count,  # [1] int32
    live_total,  # [1] int64, which this list's length is added to
    batch,
    layers,
    ROWS: tl.constexpr,
):
    listed = 0
    for first in range(0, batch, ROWS):
        row = first + tl.arange(0, ROWS)
        real = row < batch
        certainty = tl.load(p1 + row, mask=real, other=1.0).to(tl.float64)
        value = tl.load(gate_value + row, mask=real, other=0.0)
        kind = tl.load(gate + row, mask=real, other=_NEVER)
        is_greedy = tl.load(greedy + row, mask=real, other=False)
        drawn = tl.load(random_gate + row, mask=real, other=False)
        may = tl.load(owns + row, mask=real, other=False)
        may = may & tl.load(thinks + row, mask=real, other=False)
        wanted = tl.load(projects + row, mask=real, other=False)
        noise = tl.load(gate_noise + row, mask=real, other=1.0)

        probability = 1.0 - certainty
        probability = tl.where(kind == _ALWAYS, 1.0, probability)
        probability = tl.where(kind == _NEVER, 0.0, probability)
        above = tl.load(entropy + row, mask=real, other=0.0) > value
        probability = tl.where(kind == _ENTROPY, above.to(tl.float64), probability)
        probability = tl.where(kind == _RATE, value.to(tl.float64), probability)
        likelier = (probability > 0.5).to(tl.float64)
        probability = tl.where(is_greedy & (drawn == 0), likelier, probability)
        probability = tl.where(may, probability, 0.0)
        explored = noise < probability
        projected = explored | (may & wanted)
        tl.store(explored_out + row, explored, mask=real)
        tl.store(explore_probability + row, probability, mask=real)
        tl.store(projected_out + row, projected, mask=real)

        live = tl.load(depth + row, mask=real, other=1).to(tl.int32) - 1
        live = tl.where(projected & real, tl.minimum(live, layers), 0)
        place = listed + tl.cumsum(live, 0) - live
        for layer in range(0, layers):
            in_list = layer < live
            tl.store(live_rows + place + layer, row * layers + layer, mask=in_list)
        listed += tl.sum(live, 0)
    tl.store(live_count, listed)
    tl.store(live_total, tl.load(live_total) + listed)


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


def gate_and_compact(
    final: FinalPosterior, rows: LedRows, noise: StepNoise, layers: int, workspace: StepWorkspace
) -> Tensor:
    """K1. Returns explored [B] bool; the rest is left in the workspace: explore_probability [B],
    projected [B], live_rows [B * layers], live_count [1], live_total [1].

    layers: latent layers per request, LedLimits.depth - 1.
    """
    batch = final.p1.shape[0]
    assert batch <= workspace.batch
    assert layers <= workspace.layers
    assert noise.gate.dtype == float64
    columns = (
        final.p1,
        final.entropy,
        noise.gate,
        rows.gate,
        rows.gate_value,
        rows.greedy,
        rows.random_gate,
        rows.owns,
        rows.thinks,
        rows.projects,
        rows.depth,
    )
    assert all(column.shape == (batch,) for column in columns)
    explored = workspace.explored[:batch]
    gate_compact_kernel[(1,)](
        *(column.contiguous() for column in columns),
        explored,
        workspace.explore_probability,
        workspace.projected,
        workspace.live_rows,
        workspace.live_count,
        workspace.live_total,
        batch,
        layers,
        ROWS=_ROWS_AT_ONCE,
        num_warps=4,
    )
    return explored


def gather_latents(
    latents: Tensor,
    rows: LedRows,
    layers: int,
    first: int,
    workspace: StepWorkspace,
    final_norm: Callable[[Tensor], Tensor] | None,
) -> None:
    """K2: one window of the listed rows of latents [B, C, H], from the list's index ``first`` on,
    into workspace.latent_rows, with log2(e) / T.

    final_norm: None if no row wants it. It sees a fixed number of rows, of which those beyond the
    live count hold anything; each row keeps its norm's result only if it wants it. It is torch's,
    and allocates.
    """
    batch, captured, hidden = latents.shape
    count = min(workspace.window, batch * layers - first)
    assert latents.stride(2) == 1
    assert hidden == workspace.latent_rows.shape[1]
    gather_latents_kernel[(count, triton.cdiv(hidden, _HIDDEN_AT_ONCE))](
        latents,
        rows.temperature.contiguous(),
        rows.release_layers.contiguous(),
        workspace.live_rows,
        workspace.live_count,
        workspace.latent_rows,
        workspace.row_scale,
        latents.stride(0),
        latents.stride(1),
        first,
        layers,
        captured,
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
    gathered.copy_(where(wants, final_norm(gathered).to(gathered.dtype), gathered))
