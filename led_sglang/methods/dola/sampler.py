"""DoLa: decoding by contrasting layers (docs/method.md#dola)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from led_sglang.kernels.eager.dola import DolaRows, dola_scores
from led_sglang.methods.base import LoadedModel, LogitsContext
from led_sglang.methods.dola.params import DolaParams
from led_sglang.methods.rows import RowTable

_NAME = "dola"


class DolaLogits:
    """DoLa at work on a loaded model."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model

    def change(self, context: LogitsContext) -> None:
        """Write the scores over the logits of DoLa's rows; see `LogitsChanger.change`."""
        model = self._model
        index, rows = context.table.once(_rows)
        result = dola_scores(
            context.logits[index],
            context.captured[index],
            replace(rows, pair_layer=model.place_of[rows.pair_layer]),
            model.head,
            shard_widths=model.shard_widths,
            all_gather=model.all_gather,
        )
        context.logits.index_copy_(0, index, result.scores.to(context.logits.dtype))


def _rows(table: RowTable) -> tuple[Tensor, DolaRows]:
    """Places [D] of DoLa's rows in the batch, and the kernel's view of them by layer number."""
    params: list[DolaParams] = [row.params for row in table.rows_of(_NAME)]
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
