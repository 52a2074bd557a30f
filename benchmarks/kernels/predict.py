"""The predicted table: ``python -m benchmarks.kernels predict``. Arithmetic, no measurement.

A pass over the LM head takes what the slowest of four takes: reading the weight from memory,
multiplying it with all rows of the row tiles (padding included), feeding the multiprocessors from
L2, and its waves. Everything else of a step is counted in launches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from led_sglang.kernels.triton.tiles import BLOCK_COLUMNS, Table, column_tiles, table_for

from .problem import LAYERS, MODELS, Model

_BATCHES = (1, 8, 64, 256)
_EXPLORED = 0.1
_HALF_BYTES = 2
# Launches of a step beside the logsumexp, and what one with little to do takes on the device.
_OTHERS, _OTHER_MICROSECONDS = 7, 2.5


@dataclass(frozen=True)
class Card:
    """What a card is taken to reach, and where that is from.

    Attributes:
        kind: its row in the table of tiles.
        multiprocessors: it has.
        copy: bytes per second from memory.
        gemm: bf16 FLOP per second.
        feed: bytes per second from L2 to the multiprocessors, inferred.
    """

    name: str
    kind: str
    multiprocessors: int
    copy: float
    gemm: float
    feed: float
    source: str


CARDS = (
    Card("H200", "sm_90", 132, 4.3e12, 790e12, 7.5e12, "assumed"),
    Card("H100", "sm_90", 132, 3.0e12, 790e12, 7.5e12, "assumed; copy is 90% of the datasheet's"),
    Card("H20", "h20", 78, 4.0e12, 148e12, 4.4e12, "datasheet; feed scaled by multiprocessors"),
    Card("A100-80G", "sm_80", 108, 2.0e12, 312e12, 4.5e12, "datasheet"),
)


def tile_rows(table: Table, rows: int) -> tuple[int, int]:
    """(rows of the row tile that so many live rows take, how many such tiles)."""
    if rows == 0:
        return 0, 0
    tile = next((t.rows for t in table.tiles if rows <= t.rows), table.tiles[-1].rows)
    return tile, -(-rows // tile)


def logsumexp_microseconds(card: Card, model: Model, rows: int, at_most: int) -> float:
    """Of one pass over the LM head.

    Args:
        rows: live latent rows.
        at_most: if all requests explored; chooses the launch.
    """
    table = table_for(card.kind, at_most, torch.bfloat16)
    tile, count = tile_rows(table, rows)
    if count == 0:
        return 0.0
    columns = column_tiles(model.vocab)
    weight = _HALF_BYTES * model.hidden * model.vocab
    flop = 2.0 * model.hidden * columns * BLOCK_COLUMNS * tile * count
    fed = weight * count * (1.0 + tile / BLOCK_COLUMNS)
    # Programs of one multiprocessor share its bandwidth: waves are of multiprocessors.
    waves = columns * count / card.multiprocessors
    waste = -(-columns * count // card.multiprocessors) / waves
    return 1e6 * waste * max(weight / card.copy, flop / card.gemm, fed / card.feed)


def floor_microseconds(card: Card, model: Model, rows: int) -> float:
    """The roofline of so many rows: the weight is read once, and no row is padding."""
    weight = model.hidden * model.vocab
    by_bytes, by_flop = _HALF_BYTES * weight / card.copy, 2.0 * rows * weight / card.gemm
    return 1e6 * max(by_bytes, by_flop) if rows else 0.0


def lines(batches: tuple[int, ...] = _BATCHES) -> list[str]:
    """The table as Markdown."""
    table = [f"* {card.name}: {card.source}" for card in CARDS]
    table += [
        f"* {_EXPLORED:.0%} of the requests explore (at least one); {LAYERS} latent rows each",
        f"* other launches: {_OTHERS} of {_OTHER_MICROSECONDS} us",
        "",
        "| card | model | B | live rows | row tile | floor us | logsumexp us | step us |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for card in CARDS:
        for model in MODELS.values():
            for batch in batches:
                rows = LAYERS * max(1, round(_EXPLORED * batch))
                at_most = LAYERS * batch
                tile, count = tile_rows(table_for(card.kind, at_most, torch.bfloat16), rows)
                logsumexp = logsumexp_microseconds(card, model, rows, at_most)
                step = logsumexp + _OTHERS * _OTHER_MICROSECONDS
                floor = floor_microseconds(card, model, rows)
                table.append(
                    f"| {card.name} | {model.name} | {batch} | {rows} | {count} x {tile} "
                    f"| {floor:.0f} | {logsumexp:.0f} | {step:.0f} |"
                )
    return table


def main() -> None:
    """Print the table."""
    print("\n".join(lines()))
