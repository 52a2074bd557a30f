"""LED's parameters of a batch's rows, as the kernels take them."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from led_sglang.kernels import Gate, LedLimits, LedRows
from led_sglang.params import LedParams
from led_sglang.samplers.columns import Columns


def _pack(p: LedParams) -> list[float]:
    return [
        float(p.depth),
        float(p.candidates),
        p.candidate_top_p,
        p.floor,
        float(p.final_norm),
        float(p.normalize_layers),
        float(p.layers == "release"),
        float(Gate[p.gate.upper()]),
        p.gate_value,
        float(p.preset == "release"),
        float(p.think_only),
        float(p.projects),
    ]


LED_COLUMNS = Columns(
    kinds={
        "depth": int,
        "candidates": int,
        "candidate_top_p": float,
        "floor": float,
        "final_norm": bool,
        "normalize_layers": bool,
        "release_layers": bool,
        "gate": int,
        "gate_value": float,
        "release_preset": bool,
        "think_only": bool,
        "projects": bool,
    },
    # depth and candidates stay in range
    plain=[1.0, 1.0, 1.0, *[0.0] * 9],
    pack=_pack,
)


def led_limits(params: Iterable[LedParams], greedy: bool) -> LedLimits:
    """The batch-wide sizes of a step, and what none of its LED rows asks for.

    Args:
        params: of the rows.
        greedy: whether any of them has temperature 0.
    """
    params = list(params)
    return LedLimits(
        candidates=max((p.candidates for p in params), default=1),
        depth=max((p.depth for p in params), default=1),
        final_norm=any(p.final_norm for p in params),
        entropy=any(p.gate == "entropy" or p.trace for p in params),
        behaviour=any(p.projects for p in params),
        greedy=greedy,
        nucleus=any(p.candidate_top_p < 1.0 for p in params),
        floor=any(p.floor > 0.0 for p in params),
        normalize_layers=any(p.normalize_layers for p in params),
        gates=frozenset(Gate[p.gate.upper()] for p in params),
    )


def led_rows(
    columns: dict[str, Tensor],
    mine: Tensor,
    greedy: Tensor,
    temperature: Tensor,
    thinking: Tensor,
) -> LedRows:
    """The kernels' view of a step.

    Args:
        columns: of `LED_COLUMNS`, [B] each.
        mine: [B] bool, the rows of LED requests.
        greedy: [B] bool.
        temperature: [B] f32.
        thinking: [B] bool, from the phase machine.
    """
    thinks = thinking | ~columns["think_only"]
    return LedRows(
        temperature=temperature,
        greedy=greedy,
        depth=columns["depth"],
        candidates=columns["candidates"],
        candidate_top_p=columns["candidate_top_p"],
        floor=columns["floor"],
        final_norm=columns["final_norm"],
        normalize_layers=columns["normalize_layers"],
        release_layers=columns["release_layers"],
        gate=columns["gate"],
        gate_value=columns["gate_value"],
        random_gate=columns["release_preset"],
        # the authors' code keeps sampling the final layer's candidates after the think phase
        owns=mine & (thinks | columns["release_preset"]),
        thinks=thinks,
        projects=columns["projects"],
    )
