"""Noise: the hash is murmur3 and SGLang's, the Gumbel is SGLang's, shapes never depend on data."""

from __future__ import annotations

import struct

import pytest
import torch
from kernel_cases import Request, random_case, step_for
from scipy import stats

from led_sglang.kernels import (
    NoiseStream,
    StepNoise,
    gumbel_from_hash,
    hash32,
    seeded_noise,
    uniform_from_hash,
)
from led_sglang.kernels.eager.noise import GATE_COLUMN

pytestmark = pytest.mark.usefixtures("each_path")

U32 = 0xFFFFFFFF


def draw_noise(*arguments) -> StepNoise:  # type: ignore[no-untyped-def]
    case = random_case(0, vocab=8, hidden=8, requests=[Request()])
    return step_for(case).draw_noise(*arguments)


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


def drawn(stream: NoiseStream, batch: int, ids: torch.Tensor, seeded: bool = False) -> StepNoise:
    """One step's noise of ``batch`` rows with the candidates ``ids``."""
    zeros = torch.zeros(batch, dtype=torch.int64)
    mask = torch.full((batch,), seeded)
    return draw_noise(stream, zeros, mask, zeros, ids.expand(batch, -1))


def unseeded_over_steps(n: int) -> StepNoise:
    """One row's noise of n consecutive steps."""
    stream = NoiseStream.start(2**40 + 3, "cpu")
    steps = [drawn(stream, 1, torch.tensor([3, 9])) for _ in range(n)]
    return StepNoise(torch.cat([s.gate for s in steps]), torch.cat([s.pick for s in steps]))


def noise_of(source: str) -> StepNoise:
    n, ids = 20_000, torch.tensor([[3, 9]])
    if source == "seeds":
        seeds = torch.arange(n)
        return seeded_noise(seeds, torch.full_like(seeds, 5), ids.expand(n, 2))
    if source == "rows of a stream":
        return drawn(NoiseStream.start(0, "cpu"), n, ids)
    return unseeded_over_steps(4000)


@pytest.mark.parametrize("source", ["seeds", "rows of a stream", "steps of a stream"])
def test_noise_has_the_right_distribution(source: str) -> None:
    noise = noise_of(source)
    assert stats.kstest(noise.gate.numpy(), "uniform").pvalue > 1e-3
    assert 0.0 <= noise.gate.min() <= noise.gate.max() < 1.0
    for column in noise.pick.T:
        assert stats.kstest(column.numpy(), "gumbel_r").pvalue > 1e-3
    # Columns are independent of each other, of the gate, and of the row or step before.
    together = torch.stack([noise.gate, noise.pick[:, 0], noise.pick[:, 1]])
    together = torch.cat([together[:, 1:], together[:, :-1]])
    bound = 4.5 / len(noise.gate) ** 0.5
    assert (together.corrcoef() - torch.eye(6)).abs().max() < bound


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


def test_every_step_moves_the_stream_on_by_one() -> None:
    """Whatever the rows are: ranks that make the same steps stay together."""
    stream, twin = (NoiseStream.start(7, "cpu") for _ in range(2))
    ids = torch.arange(5)
    first = drawn(stream, 4, ids)
    assert torch.equal(first.pick, drawn(twin, 4, ids).pick)
    second = drawn(stream, 4, ids)
    drawn(twin, 2, ids, seeded=True)
    third = drawn(stream, 4, ids)
    assert torch.equal(third.pick, drawn(twin, 4, ids).pick)
    assert torch.equal(stream.step, torch.tensor([3]))
    for one, other in ((first, second), (second, third), (first, third)):
        assert (one.pick != other.pick).all()
        assert (one.gate != other.gate).all()
    assert len(first.gate.unique()) == 4


def test_streams_of_other_seeds_differ() -> None:
    ids = torch.arange(5)
    one, other = (drawn(NoiseStream.start(seed, "cpu"), 4, ids) for seed in (1, 2))
    assert (one.pick != other.pick).all()
    assert torch.equal(NoiseStream.start(2**64 + 5, "cpu").seed, torch.tensor([5]))
    assert torch.equal(NoiseStream.start(2**63, "cpu").seed, torch.tensor([-(2**63)]))


def test_a_row_with_a_seed_owes_nothing_to_the_stream() -> None:
    ids = torch.arange(6).view(2, 3)
    seeds, positions = torch.tensor([1, 2]), torch.tensor([4, 4])
    seeded = seeded_noise(seeds, positions, ids)
    for seed in (0, 9):
        stream = NoiseStream.start(seed, "cpu")
        mixed = draw_noise(stream, seeds, torch.tensor([True, False]), positions, ids)
        assert torch.equal(mixed.gate[0], seeded.gate[0])
        assert torch.equal(mixed.pick[0], seeded.pick[0])
        assert (mixed.pick[1] != seeded.pick[1]).all()
