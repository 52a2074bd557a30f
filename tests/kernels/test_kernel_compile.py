"""Every kernel as a server's launch compiles it for sm_80 and sm_90, without a GPU: resources and
instructions. No kernel is compiled for a hidden size of its own, so one launch stands for all."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
import triton

from benchmarks.kernels.host import HostProblem
from benchmarks.kernels.stub_driver import compiled, stubbed
from led_sglang.kernels import Draws, LaunchLimits, LedLimits, LmHeadShard, NoiseStream, TritonStep
from led_sglang.kernels.triton import tiles
from led_sglang.kernels.triton.latent_lse import LatentLse
from led_sglang.kernels.triton.prewarm import _exploring_row
from led_sglang.kernels.triton.workspace import StepWorkspace

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"

# CUDA programming guide, "Technical Specifications per Compute Capability": a program's shared
# memory, a multiprocessor's, and what the system keeps of it per program.
SHARED_LIMIT = {"sm_80": 163 * 1024, "sm_90": 227 * 1024}
SHARED_TOTAL = {"sm_80": 164 * 1024, "sm_90": 228 * 1024}
SHARED_RESERVED = 1024
REGISTERS = 65536

# The real hidden sizes: Qwen3-4B, Qwen3-8B, QwQ-32B, Llama-70B.
HIDDEN = (2560, 4096, 5120, 8192)
VOCAB = 151936


class Usage:
    """What a compiled kernel takes of a multiprocessor."""

    def __init__(self, kernel: Any, folder: Path) -> None:
        self.ptx: str = kernel.asm["ptx"]
        self.ttgir: str = kernel.asm["ttgir"]
        self.shared: int = kernel.metadata.shared
        self.threads: int = kernel.metadata.num_warps * 32
        self._cubin = folder / f"{kernel.hash}.cubin"
        self._cubin.write_bytes(kernel.asm["cubin"])
        usage = self._dump("--dump-resource-usage")
        self.registers = int(re.findall(r"REG:(\d+)", usage)[-1])
        self.spilled = [int(n) for n in re.findall(r"(?:STACK|LOCAL):(\d+)", usage)]
        assert len(self.spilled) >= 2

    @cached_property
    def instructions(self) -> list[str]:
        return re.findall(r"/\*\w+\*/ +(?:@!?U?P\w+ +)?([A-Z][\w.]*)", self._dump("--dump-sass"))

    def fits(self, card: str, programs: int = 1) -> None:
        assert not any(self.spilled), f"spills: {self.spilled}"
        assert self.shared <= SHARED_LIMIT[card]
        assert programs * (self.shared + SHARED_RESERVED) <= SHARED_TOTAL[card]
        assert programs * self.threads * self.registers <= REGISTERS

    def _dump(self, what: str) -> str:
        command = [CUOBJDUMP, what, self._cubin]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def unprepared(hidden: int, depth: int = 8) -> TritonStep:
    head = LmHeadShard(torch.empty(VOCAB, hidden, dtype=torch.bfloat16), 0, VOCAB)
    return TritonStep(head, LaunchLimits(64, 64, depth, VOCAB, depth - 1, torch.bfloat16))


@pytest.fixture(scope="module", params=["sm_80", "sm_90"])
def card(request: pytest.FixtureRequest) -> Iterator[str]:
    """Everything that a launch with 8 candidates compiles, and the posterior of 64."""
    with stubbed(request.param), torch.inference_mode():
        HostProblem(HIDDEN[0], VOCAB, 256, candidates=8)
        step = unprepared(HIDDEN[0])
        limits = LedLimits(64, 8, False, True)
        rows, one = _exploring_row(step._limits, torch.device("cpu")), torch.zeros(1).long()
        draws = Draws(NoiseStream.start(0, "cpu"), one, one > 0, one)
        staying = step.plan(rows, limits).posterior
        step.posterior(None, torch.empty(1, VOCAB), limits, draws, staying, binds=True)
        yield request.param


def usage(name: str, folder: Path) -> list[Usage]:
    found = [Usage(kernel, folder) for kernel in compiled()[name]]
    assert found, name
    return found


def test_every_kernel_fits_and_nothing_spills(card: str, tmp_path: Path) -> None:
    launched = compiled()
    del launched["noise_kernel"]  # of the parts of a step, which no server launches
    assert {name: len(kernels) for name, kernels in launched.items()} == {
        "split_statistics_kernel": 3,
        "merge_splits_kernel": 3,
        "gate_kernel": 1,
        "gather_latents_kernel": 1,
        "latent_lse_kernel": 2,
        "latent_partials_kernel": 1,
        "combine_kernel": 1,
        "settle_kernel": 2,
    }
    for name, kernels in launched.items():
        for kernel in kernels:
            # Two programs of four warps, or one of eight, as the table of tiles says.
            narrow = name == "latent_lse_kernel" and kernel.metadata.num_warps == 4
            Usage(kernel, tmp_path).fits(card, 2 if narrow else 1)


def test_latent_lse_is_tensor_cores(card: str, tmp_path: Path) -> None:
    for kernel in usage("latent_lse_kernel", tmp_path):
        if card == "sm_90":
            shapes = re.findall(r"wgmma\.mma_async\S*m64n(\d+)k16\.f32\.bf16\.bf16", kernel.ptx)
            assert {16, 32, 64, 128} <= set(map(int, shapes))
            assert "cp.async.bulk.tensor.2d" in kernel.ptx
            # The vocabulary is on the long side, split over all warps.
            assert re.search(
                r"warpsPerCTA = \[[48], 1\], instrShape = \[16, \d+, 16\]", kernel.ttgir
            )
        else:
            assert "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32" in kernel.ptx
            assert re.search(r"cp\.async\.cg\.shared\.global\S* \[.*0x10", kernel.ptx), (
                "16 B copies"
            )


def test_combine_needs_next_to_no_fp64(card: str, tmp_path: Path) -> None:
    """Under 400 was the aim; a card like H20 takes ten cycles for one.

    One kernel has the block of few candidates and that of 64, and each row takes one of them.
    """
    (kernel,) = usage("combine_kernel", tmp_path)
    fp64 = [i for i in kernel.instructions if re.match(r"D(ADD|MUL|FMA|SETP|MNMX)|F2F.*F64", i)]
    print(f"{card}: {len(fp64)} of {len(kernel.instructions)} instructions of combine are fp64")
    assert len(kernel.instructions) > 500
    assert 0 < len(fp64) < 100


def test_posterior_reads_wide(card: str, tmp_path: Path) -> None:
    for kernel in usage("split_statistics_kernel", tmp_path):
        assert "LDG.E.128" in " ".join(kernel.instructions)


def test_other_hidden_sizes_take_the_same_code(card: str, tmp_path: Path) -> None:
    """Only the candidates' dot product is compiled by the power of two that holds the size."""
    before = {name: len(kernels) for name, kernels in compiled().items()}
    for hidden in HIDDEN[1:]:
        step = unprepared(hidden)
        rows = _exploring_row(step._limits, torch.device("cpu"))
        plan = step.plan(rows, LedLimits(8, 8, False, False))
        step.gather.bind(torch.empty(1, 7, hidden, dtype=torch.bfloat16), plan.gather)
        for at_most in (1, 2048):
            step.latent_lse.bind(at_most)
        step.partials.bind(plan.partials)
    after = {name: len(kernels) for name, kernels in compiled().items()}
    assert after == before | {"latent_partials_kernel": before["latent_partials_kernel"] + 1}
    for kernel in usage("latent_partials_kernel", tmp_path):
        kernel.fits(card)


def bound_lse(card: str, dtype: torch.dtype, *, softcap: float | None) -> None:
    weight = torch.empty(1024, 4096, dtype=dtype)
    head = LmHeadShard(weight, 0, 1024, softcap=softcap)
    chip = tiles.Chip(card, 100, 0)
    LatentLse(head, StepWorkspace(8, 7, 8, weight, 1024), chip).bind(8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_latent_lse_of_other_weights_and_softcap(
    card: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    known = {kernel.hash for kernel in compiled()["latent_lse_kernel"]}
    bound_lse(card, dtype, softcap=30.0)
    (new,) = [k for k in compiled()["latent_lse_kernel"] if k.hash not in known]
    kernel = Usage(new, tmp_path)
    kernel.fits(card, 2)
    if dtype == torch.float32:
        assert "tf32" not in kernel.ptx, "fp32 weights must not be rounded to 10 bits"


def test_the_row_tiles_of_an_h20_fit(
    card: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that no other card has, in launches of their own."""
    if card != "sm_90":
        return  # the same tiles for the other architecture
    for of_h20, of_others in zip(tiles._TABLES["h20"], tiles._TABLES["sm_90"], strict=True):
        own = tuple(tile for tile in of_h20.tiles if tile not in of_others.tiles)
        own = tuple(tile for tile in own if of_h20.programs == 2 or tile.rows > 128)
        table = tiles.Table(own, of_h20.warps, of_h20.programs)
        monkeypatch.setitem(tiles._TABLES, "h20", (table, table))
        known = {kernel.hash for kernel in compiled()["latent_lse_kernel"]}
        bound_lse("h20", torch.bfloat16, softcap=None)
        (new,) = [k for k in compiled()["latent_lse_kernel"] if k.hash not in known]
        Usage(new, tmp_path).fits("sm_90", table.programs)


def test_a_wrong_tile_would_be_noticed(card: str, tmp_path: Path, monkeypatch: Any) -> None:
    """The checks above fail for a tile too large for its multiprocessor."""
    table = tiles.Table(tiles._tiles((128, 0, 64, 6)), 4, 2)
    monkeypatch.setitem(tiles._TABLES, card, (table, table))
    known = {kernel.hash for kernel in compiled()["latent_lse_kernel"]}
    bound_lse(card, torch.bfloat16, softcap=None)
    (new,) = [k for k in compiled()["latent_lse_kernel"] if k.hash not in known]
    with pytest.raises(AssertionError):
        Usage(new, tmp_path).fits(card, 2)


# Rows of 16 and 64 layers: depths up to 16 and 64.
@pytest.mark.parametrize("depth", [16, 64])
def test_combine_of_deeper_requests_fits(card: str, depth: int, tmp_path: Path) -> None:
    known = {kernel.hash for kernel in compiled()["combine_kernel"]}
    step = unprepared(64, depth)
    rows = _exploring_row(step._limits, torch.device("cpu"))
    plan = step.plan(rows, LedLimits(8, depth, False, False))
    step.combine.bind(plan.sent[None], plan.combine)
    (new,) = [k for k in compiled()["combine_kernel"] if k.hash not in known]
    Usage(new, tmp_path).fits(card)
