"""The gates on a CPU, compiled, and which latent rows the batch needs (docs/method.md#gate)."""

from __future__ import annotations

from ..types import Gate
from .jit import compiled

_ALWAYS, _NEVER = int(Gate.ALWAYS), int(Gate.NEVER)
_ENTROPY, _RATE = int(Gate.ENTROPY), int(Gate.RATE)


@compiled
def gate_rows(
    p1,  # [B] f32
    entropy,  # [B] f32
    draw,  # [B] f64
    gate,  # [B] int64
    gate_value,  # [B] f32
    greedy,  # [B] bool
    random_gate,  # [B] bool
    owns,  # [B] bool
    thinks,  # [B] bool
    projects,  # [B] bool
    depth,  # [B] int64
    release_layers,  # [B] bool
    explored,  # out [B] bool
    explore_probability,  # out [B] f64
    projected,  # out [B] bool
    request,  # out [B * layers] int64: row of the batch of each live latent row
    below_final,  # out [B * layers] int64: its layer, 0 = h^{L-1}
    place,  # out [B * layers] int64: its index among B * layers
    layers,  # latent layers per request
):
    """Returns how many latent rows are live; their entries come first, in the batch's order."""
    live = 0
    for b in range(p1.shape[0]):
        chance = 1.0 - float(p1[b])
        if gate[b] == _ALWAYS:
            chance = 1.0
        elif gate[b] == _NEVER:
            chance = 0.0
        elif gate[b] == _ENTROPY:
            chance = 1.0 if entropy[b] > gate_value[b] else 0.0
        elif gate[b] == _RATE:
            chance = float(gate_value[b])
        if greedy[b] and not random_gate[b]:
            chance = 1.0 if chance > 0.5 else 0.0
        may_explore = owns[b] and thinks[b]
        explore_probability[b] = chance if may_explore else 0.0
        explored[b] = draw[b] < explore_probability[b]
        projected[b] = explored[b] or (may_explore and projects[b])
        if not projected[b]:
            continue
        for layer in range(min(layers, depth[b] - 1)):
            request[live] = b
            below_final[live] = layer + (1 if release_layers[b] else 0)
            place[live] = b * layers + layer
            live += 1
    return live
