"""SoftThinking's parameters of a batch's rows, as the kernel takes them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from led_sglang.kernels.eager.soft_thinking import SoftLimits, SoftNoise, SoftRows
from led_sglang.params import SOFT_SAMPLERS, SoftThinkingParams
from led_sglang.samplers.columns import Columns, Filters

_NOISE = dict(zip(SOFT_SAMPLERS, SoftNoise, strict=True))


def _pack(p: SoftThinkingParams) -> list[float]:
    return [
        float(p.max_topk),
        float(_NOISE[p.noise]),
        p.noise_value,
        p.entropy_threshold,
        float(p.length_threshold),
    ]


SOFT_COLUMNS = Columns(
    kinds={
        "max_topk": int,
        "noise": int,
        "noise_value": float,
        "entropy_threshold": float,
        "length_threshold": int,
    },
    plain=[1.0, 0.0, 1.0, 0.0, 0.0],
    pack=_pack,
)


def soft_limits(params: Sequence[SoftThinkingParams], filters: Sequence[Filters]) -> SoftLimits:
    """The batch-wide sizes of a step; one entry of both per row."""
    kinds = {_NOISE[p.noise] for p in params}
    whole = 2**31 - 1
    depth = 1
    for p, f in zip(params, filters, strict=True):
        if f.top_k > 0:
            depth = max(depth, f.top_k)
        elif _NOISE[p.noise] == SoftNoise.DIRICHLET:
            depth = whole
    return SoftLimits(
        width=max(p.max_topk for p in params),
        depth=depth,
        gumbel=SoftNoise.GUMBEL in kinds,
        dirichlet=SoftNoise.DIRICHLET in kinds,
    )


def soft_rows(
    columns: dict[str, Tensor], filters: dict[str, Tensor], temperature: Tensor, index: Tensor
) -> SoftRows:
    """The kernel's view of the rows at `index` [D].

    Args:
        columns: of `SOFT_COLUMNS`, [B] each.
        filters: top_k, top_p, min_p of the requests, [B] each.
        temperature: [B] f32.
    """
    return SoftRows(
        temperature=temperature[index],
        top_k=filters["top_k"][index],
        top_p=filters["top_p"][index],
        min_p=filters["min_p"][index],
        max_topk=columns["max_topk"][index],
        noise=columns["noise"][index],
        noise_value=columns["noise_value"][index],
    )
