"""DoLa: decoding by contrasting layers (docs/method.md#dola)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from led_sglang.kernels.eager.dola import DolaRows, dola_scores
from led_sglang.params import DolaParams
from led_sglang.samplers.base import LogitsContext
from led_sglang.samplers.rows import RowTable

_NAME = "dola"


class Dola:
    """Replaces a row's logits by their contrast with an early layer's; the engine samples."""

    samplers: tuple[str, ...] = (_NAME,)

    def reshape(self, context: LogitsContext) -> None:
        """Write the scores over the logits of DoLa's rows; see `LogitsMethod.reshape`."""
        index, rows = context.table.once(_rows)
        result = dola_scores(
            context.logits[index],
            context.captured[index],
            replace(rows, pair_layer=context.place_of[rows.pair_layer]),
            context.model.head,
            shard_widths=context.model.shard_widths,
            all_gather=context.model.all_gather,
        )
        context.logits.index_copy_(0, index, result.scores.to(context.logits.dtype))


def _rows(table: RowTable) -> tuple[Tensor, DolaRows]:
    """Places [D] of DoLa's rows in the batch, and the kernel's view of them by layer number."""
    params: list[DolaParams] = table.params_of(_NAME)
    pairs = [(row, layer) for row, p in enumerate(params) for layer in p.layers]
    place = {pair: i for i, pair in enumerate(pairs)}
    widest = max(len(p.layers) for p in params)

    def upload(values: Sequence[object], dtype: torch.dtype) -> Tensor:
        return table.upload(torch.tensor(values, dtype=dtype))

    rows = DolaRows(
        pair_row=upload([row for row, _ in pairs], torch.int64),
        pair_layer=upload([layer for _, layer in pairs], torch.int64),
        pair_of=upload(
            [
                [place[row, p.layers[min(slot, len(p.layers) - 1)]] for slot in range(widest)]
                for row, p in enumerate(params)
            ],
            torch.int64,
        ),
        relative_top=upload([p.relative_top for p in params], torch.float32),
        symmetric=upload([p.divergence == "jensen-shannon" for p in params], torch.bool),
    )
    return table.places_of(_NAME), rows
