"""Who explores, and the list of latent rows that need the LM head (docs/method.md#gate).

The list is a prefix sum, never an atomic counter: ranks of a tensor-parallel group must agree on
the order of rows without a word between them.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor, float64

from ..types import FinalPosterior, Gate, LedRows, StepNoise
from .workspace import StepWorkspace, tensors

_ALWAYS = tl.constexpr(int(Gate.ALWAYS))
_NEVER = tl.constexpr(int(Gate.NEVER))
_ENTROPY = tl.constexpr(int(Gate.ENTROPY))
_RATE = tl.constexpr(int(Gate.RATE))

_ROWS_AT_ONCE = 256

_OF_FINAL = ("p1", "entropy")
_OF_ROWS = ("gate", "gate_value", "greedy", "random_gate", "owns", "thinks", "projects", "depth")
_GATE_ARGUMENTS = [*_OF_FINAL, "gate_noise", *_OF_ROWS]


@triton.jit(
    do_not_specialize=["batch", "layers"],
    do_not_specialize_on_alignment=[*_GATE_ARGUMENTS, "explored_out"],
)
def gate_kernel(
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


def gate_rows(
    final: FinalPosterior, rows: LedRows, noise: StepNoise, layers: int, workspace: StepWorkspace
) -> Tensor:
    """The gate of every row, and the list of live latent rows.

    Args:
        layers: latent layers per request, LedLimits.depth - 1.
        workspace: takes what `StepWorkspace` lists under the gate.

    Returns:
        Who explores, [B] bool; it lies in the workspace.
    """
    batch = final.p1.shape[0]
    assert batch <= workspace.batch
    assert layers <= workspace.layers
    assert noise.gate.dtype == float64
    columns = tensors(final, *_OF_FINAL) | tensors(rows, *_OF_ROWS)
    columns["gate_noise"] = noise.gate.contiguous()
    assert all(column.shape == (batch,) for column in columns.values())
    explored = workspace.explored[:batch]
    gate_kernel[(1,)](
        **columns,
        explored_out=explored,
        projected_out=workspace.projected,
        **tensors(workspace, "explore_probability", "live_rows", "live_count", "live_total"),
        batch=batch,
        layers=layers,
        ROWS=_ROWS_AT_ONCE,
        num_warps=4,
    )
    return explored
