"""The logsumexp alone against float64, with and without descriptors, and what it leaves be."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from triton_cases import DEVICE

from led_sglang.kernels import LmHeadShard
from led_sglang.kernels.triton.latent_lse import LatentLse
from led_sglang.kernels.triton.launch import current_stream
from led_sglang.kernels.triton.tiles import BLOCK_COLUMNS, chip_of, column_tiles
from led_sglang.kernels.triton.workspace import StepWorkspace

LOG2E = 1.4426950408889634
# The copy engine that reads descriptors came with sm_90.
HAS_DESCRIPTORS = DEVICE == "cpu" or torch.cuda.get_device_capability()[0] >= 9
DESCRIPTORS = [False, True] if HAS_DESCRIPTORS else [False]


def partials(
    count: int, capacity: int, vocab: int, hidden: int, descriptors: bool, first: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(tile_max, tile_sum) and the float64 z / T [capacity, vocab]; T = 0.6."""
    generator = torch.Generator().manual_seed(count % 1000)
    rows = torch.randn(capacity, hidden, generator=generator).bfloat16()
    weight = torch.randn(vocab + 3, hidden, generator=generator).bfloat16() / 8
    weight[vocab:] = torch.nan
    workspace = StepWorkspace(capacity, 1, 1, weight.to(DEVICE), vocab)
    workspace.latent_rows.copy_(rows)
    workspace.row_scale.fill_(LOG2E / 0.6)
    workspace.live_count.fill_(first + count)
    tile_max, tile_sum = workspace.tile_max.fill_(77.0), workspace.tile_sum.fill_(77.0)
    head = LmHeadShard(weight.to(DEVICE), 0, vocab)
    chip = chip_of(workspace.live_count.device)
    if descriptors:
        chip = replace(chip, card="sm_90")
    launch = LatentLse(head, workspace, chip, descriptors)
    launch(current_stream(chip.index), first, capacity)
    z = rows.double() @ weight[:vocab].double().t() / 0.6
    return tile_max.cpu(), tile_sum.cpu(), z


# Live counts at the edges of the row tiles, of one product and of two.
@pytest.mark.parametrize("count", [0, 1, 16, 17, 33, 48, 64, 65, 96, 97, 130, 140])
@pytest.mark.parametrize("descriptors", DESCRIPTORS)
def test_each_row_tile_matches_float64(count: int, descriptors: bool) -> None:
    tile_max, tile_sum, z = partials(count, 140, 300, 72, descriptors)
    assert (tile_max[count:] == 77.0).all()
    assert (tile_sum[count:] == 77.0).all()
    for tile in range(column_tiles(300)):
        part = z[:count, tile * BLOCK_COLUMNS : (tile + 1) * BLOCK_COLUMNS]
        largest = tile_max[:count, tile].double() / 0.6
        torch.testing.assert_close(largest, part.amax(1), rtol=2e-6, atol=2e-6)
        total = (part - largest[:, None]).exp().sum(1)
        torch.testing.assert_close(tile_sum[:count, tile].double(), total, rtol=5e-6, atol=0)


def test_a_window_of_the_list_holds_what_is_left_of_it() -> None:
    """The list has 133 rows; this window begins at number 100 and has room for 140."""
    one, _, _ = partials(33, 140, 300, 72, False)
    window, _, _ = partials(33, 140, 300, 72, False, first=100)
    assert torch.equal(window, one)
    assert (window[33:] == 77.0).all()


def test_a_window_beyond_the_list_does_nothing() -> None:
    tile_max, tile_sum, _ = partials(-7, 140, 300, 72, False, first=100)
    assert (tile_max == 77.0).all()
    assert (tile_sum == 77.0).all()


def test_a_shard_without_columns_does_nothing() -> None:
    tile_max, _, _ = partials(3, 8, 0, 40, False)
    assert tile_max.shape == (8, 0)
