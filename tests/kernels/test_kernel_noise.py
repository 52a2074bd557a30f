"""Noise: the hash is murmur3 and SGLang's, the Gumbel is SGLang's, shapes never depend on data."""

from __future__ import annotations

import struct

import pytest
import torch
from led_sglang.kernels import (
    gumbel_from_hash,
    hash32,
    mix_noise,
    seeded_noise,
    uniform_from_hash,
    unseeded_noise,
)
from led_sglang.kernels.noise import GATE_COLUMN
from scipy import stats

U32 = 0xFFFFFFFF


def murmur3_32(data: bytes, seed: int = 0) -> int:
    """The published algorithm, byte by byte, in Python's unbounded integers."""

    def rotate(x: int, bits: int) -> int:
        return ((x << bits) | (x >> (32 - bits))) & U32

    h = seed
    tail = len(data) % 4
    for (k,) in struct.iter_unpack("<I", data[: len(data) - tail]):
        k = rotate(k * 0xCC9E2D51 & U32, 15) * 0x1B873593 & U32
        h = (rotate(h ^ k, 13) * 5 + 0xE6546B64) & U32
    if tail:
        k = int.from_bytes(data[-tail:], "little")
        h ^= rotate(k * 0xCC9E2D51 & U32, 15) * 0x1B873593 & U32
    h ^= len(data)
    h = (h ^ (h >> 16)) * 0x85EBCA6B & U32
    h = (h ^ (h >> 13)) * 0xC2B2AE35 & U32
    return h ^ (h >> 16)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"", 0),
        (b"test", 0xBA6BD213),
        (b"Hello, world!", 0xC0363E43),
        (b"The quick brown fox jumps over the lazy dog", 0x2E4FF723),
    ],
)
def test_python_murmur_gives_the_published_values(data: bytes, value: int) -> None:
    assert murmur3_32(data) == value


SEEDS = [0, 1, 42, 2**31, 2**32 - 1, 2**32, 2**63 - 1, -1, -2, -(2**63), 123456789012345]
POSITIONS = [0, 1, 77, 65535, 2**31 - 1]
COLUMNS = [0, 1, 151935, 2**31 - 1, GATE_COLUMN, U32]


def test_hash_is_murmur3_of_seed_position_column() -> None:
    hashed = hash32(
        torch.tensor(SEEDS)[:, None, None],
        torch.tensor(POSITIONS)[:, None],
        torch.tensor(COLUMNS),
    )
    expected = [
        [[murmur3_32(struct.pack("<qII", s, p, c)) for c in COLUMNS] for p in POSITIONS]
        for s in SEEDS
    ]
    assert hashed.dtype == torch.int64
    assert hashed.tolist() == expected


def test_gumbel_is_the_engines_bit_for_bit() -> None:
    h = torch.cat(
        [torch.arange(1000), torch.randint(0, 2**32, (1000,)), torch.tensor([U32 - 1, U32])]
    )
    # The body of multinomial_with_seed (SGLang 0.5.23, srt/layers/sampler.py).
    x = h.to(torch.uint32).to(torch.float64) / torch.iinfo(torch.uint32).max
    x.log_().clamp_(min=torch.finfo(x.dtype).min, max=-(2.0**-32)).neg_()
    x.log_().neg_()
    gumbel = gumbel_from_hash(h)
    assert torch.equal(gumbel, x)
    assert gumbel.isfinite().all()


def test_noise_has_the_right_distribution() -> None:
    n = 20_000
    seeds = torch.arange(n)
    seeded = seeded_noise(seeds, torch.full_like(seeds, 5), torch.tensor([[3, 9]]).expand(n, 2))
    drawn = unseeded_noise(n, 2, torch.Generator().manual_seed(0), "cpu")
    for noise in (seeded, drawn):
        assert stats.kstest(noise.gate.numpy(), "uniform").pvalue > 1e-3
        assert 0.0 <= noise.gate.min() <= noise.gate.max() < 1.0
        for column in noise.pick.T:
            assert stats.kstest(column.numpy(), "gumbel_r").pvalue > 1e-3
        # Columns are independent of each other and of the gate.
        together = torch.stack([noise.gate, noise.pick[:, 0], noise.pick[:, 1]])
        assert (together.corrcoef() - torch.eye(3)).abs().max() < 0.03


def test_uniform_stays_below_one() -> None:
    assert uniform_from_hash(torch.tensor([0, U32])).tolist() == [0.0, 1.0 - 2.0**-32]


def test_seeded_noise_belongs_to_the_vocabulary_id() -> None:
    seed, position = torch.tensor([7, 7, 8, 7]), torch.tensor([3, 3, 3, 4])
    ids = torch.tensor([[5, 6, 7], [7, 5, 6], [5, 6, 7], [5, 6, 7]])
    noise = seeded_noise(seed, position, ids)
    assert torch.equal(noise.pick[1], noise.pick[0][[2, 0, 1]])
    assert noise.gate[1] == noise.gate[0]
    for other in (2, 3):
        assert noise.gate[other] != noise.gate[0]
        assert (noise.pick[other] != noise.pick[0]).all()
    alone = seeded_noise(seed[2:3], position[2:3], ids[2:3, :1])
    assert alone.pick[0, 0] == noise.pick[2, 0]


def test_gate_column_is_no_vocabulary_id() -> None:
    # The largest vocabularies of today are below 2**19; a hash column is 32 bits.
    assert 2**28 < GATE_COLUMN <= U32


def test_unseeded_noise_is_one_draw_of_a_fixed_shape() -> None:
    generator, twin = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    noise = unseeded_noise(4, 8, generator, "cpu")
    draws = torch.rand(4, 9, dtype=torch.float64, generator=twin)
    assert torch.equal(noise.gate, draws[:, 0])
    torch.testing.assert_close(noise.pick, -torch.log(-torch.log(draws[:, 1:])))
    assert torch.equal(generator.get_state(), twin.get_state())


def test_mixed_noise_takes_each_row_from_its_source() -> None:
    ids = torch.arange(6).view(2, 3)
    seeded = seeded_noise(torch.tensor([1, 2]), torch.tensor([0, 0]), ids)
    drawn = unseeded_noise(2, 3, torch.Generator().manual_seed(0), "cpu")
    mixed = mix_noise(torch.tensor([True, False]), seeded, drawn)
    assert torch.equal(mixed.gate, torch.stack([seeded.gate[0], drawn.gate[1]]))
    assert torch.equal(mixed.pick, torch.stack([seeded.pick[0], drawn.pick[1]]))
