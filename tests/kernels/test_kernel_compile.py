"""Every kernel, compiled for sm_80 and sm_90 without a GPU: resources and instructions."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from led_sglang.kernels.triton import (
    combine,
    gate,
    gather,
    latent_lse,
    noise,
    partials,
    posterior,
    tiles,
)

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"

# CUDA programming guide, "Technical Specifications per Compute Capability": a program's shared
# memory, a multiprocessor's, and what the system keeps of it per program.
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024}
SHARED_TOTAL = {80: 164 * 1024, 90: 228 * 1024}
SHARED_RESERVED = 1024
REGISTERS = 65536

# The real hidden sizes: Qwen3-4B, Qwen3-8B, QwQ-32B, Llama-70B.
HIDDEN = [2560, 4096, 5120, 8192]

NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


class Compiled:
    def __init__(
        self,
        kernel: Any,
        arch: int,
        types: dict[str, str],
        constants: dict[str, Any],
        warps: int,
        path: Path,
    ) -> None:
        signature = {n: types.get(n, "constexpr") for n in kernel.arg_names}
        assert set(types) | set(constants) == set(kernel.arg_names)
        aligned = {
            (i,): [["tt.divisibility", 16]]
            for i, t in enumerate(signature.values())
            if t.startswith("*")
        }
        result = triton.compile(
            ASTSource(kernel, signature, constants, aligned),
            target=GPUTarget("cuda", arch, 32),
            options={"num_warps": warps},
        )
        self.ptx: str = result.asm["ptx"]
        self.ttgir: str = result.asm["ttgir"]
        self.shared: int = result.metadata.shared
        cubin = path / "kernel.cubin"
        cubin.write_bytes(result.asm["cubin"])
        usage = subprocess.run(
            [CUOBJDUMP, "--dump-resource-usage", cubin], capture_output=True, text=True, check=True
        ).stdout
        self.registers = int(re.findall(r"REG:(\d+)", usage)[-1])
        self.spilled = [int(n) for n in re.findall(r"(?:STACK|LOCAL):(\d+)", usage)]
        self.threads = warps * 32
        assert len(self.spilled) >= 2

    def fits(self, arch: int, programs: int = 1) -> None:
        assert not any(self.spilled), f"spills: {self.spilled}"
        assert self.shared <= SHARED_LIMIT[arch]
        assert programs * (self.shared + SHARED_RESERVED) <= SHARED_TOTAL[arch]
        assert programs * self.threads * self.registers <= REGISTERS


def compiled_lse(
    path: Path, arch: int, hidden: int, rows: int, dtype: torch.dtype, *, softcap: bool = False
) -> Compiled:
    tile = tiles.tile_for(hidden, rows, arch, dtype)
    descriptors = arch == 90
    name = NAMES[dtype]
    types = {
        "weight": f"tensordesc<{name}[{tiles.BLOCK_COLUMNS},{tile.block}]>",
        "latent_rows": f"tensordesc<{name}[{rows},{tile.block}]>",
    }
    if not descriptors:
        types = dict.fromkeys(types, f"*{name}")
    types |= {"row_scale": "*fp32", "live_count": "*i32", "tile_max": "*fp32", "tile_sum": "*fp32"}
    types |= dict.fromkeys(["first", "window", "columns", "column_tiles"], "i32")
    types |= {"logit_scale": "fp32", "softcap": "fp32"}
    constants = {
        "HIDDEN": hidden,
        "WEIGHT_STRIDE": hidden,
        "MORE_THAN": rows // 2,
        "AT_MOST": rows,
        "BLOCK_V": tiles.BLOCK_COLUMNS,
        "ROWS": rows,
        "BLOCK_H": tile.block,
        "STAGES": tile.stages,
        "HAS_SOFTCAP": softcap,
        "DESCRIPTORS": descriptors,
        "UPCAST": False,
    }
    return Compiled(latent_lse.latent_lse_kernel, arch, types, constants, 4, path)


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("rows", tiles.ROW_TILES)
@pytest.mark.parametrize("arch", [80, 90])
def test_latent_lse_compiles_to_tensor_cores(
    arch: int, rows: int, hidden: int, tmp_path: Path
) -> None:
    kernel = compiled_lse(tmp_path, arch, hidden, rows, torch.bfloat16)
    kernel.fits(arch, tiles.tile_for(hidden, rows, arch, torch.bfloat16).programs)
    if arch == 90:
        assert re.search(r"wgmma\.mma_async\S*m64n\d+k16\.f32\.bf16\.bf16", kernel.ptx)
        assert "cp.async.bulk.tensor.2d" in kernel.ptx
        # The vocabulary is on the long side, split over all four warps.
        assert re.search(r"warpsPerCTA = \[4, 1\], instrShape = \[16, \d+, 16\]", kernel.ttgir)
    else:
        assert "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32" in kernel.ptx
        assert re.search(r"cp\.async\.cg\.shared\.global\S* \[.*0x10", kernel.ptx), "16 B copies"


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("arch", [80, 90])
def test_latent_lse_compiles_for_other_weights_and_softcap(
    arch: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    for rows in tiles.row_tiles(dtype):
        kernel = compiled_lse(tmp_path, arch, 4096, rows, dtype, softcap=True)
        kernel.fits(arch, tiles.tile_for(4096, rows, arch, dtype).programs)
        if dtype == torch.float32:
            assert "tf32" not in kernel.ptx, "fp32 weights must not be rounded to 10 bits"


def test_a_wrong_tile_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks above fail for a tile too large for its multiprocessor."""
    key = (80, 128, None)
    monkeypatch.setitem(tiles._TILES, key, tiles.Tile(block=128, stages=5, programs=2))
    kernel = compiled_lse(tmp_path, 80, 4096, 128, torch.bfloat16)
    with pytest.raises(AssertionError):
        kernel.fits(80, 2)


@pytest.mark.parametrize("keep", [8, 32, 64])
@pytest.mark.parametrize("arch", [80, 90])
def test_posterior_compiles(arch: int, keep: int, tmp_path: Path) -> None:
    shared = {
        "logits": "*bf16",
        "temperature": "*fp32",
        "split_max": "*fp32",
        "split_sum": "*fp32",
        "split_slope": "*fp32",
        "group_keys": "*i64",
        "vocab": "i32",
        "logits_stride": "i32",
    }
    constants: dict[str, Any] = {"ENTROPY": True, "GROUP": posterior.GROUP_COLUMNS, "KEEP": keep}
    split = Compiled(
        posterior.split_statistics_kernel,
        arch,
        shared,
        constants | {"SPLIT": posterior.SPLIT_COLUMNS},
        8,
        tmp_path,
    )
    split.fits(arch)
    merge = Compiled(
        posterior.merge_splits_kernel,
        arch,
        shared
        | {
            "row_candidates": "*i64",
            "row_top_p": "*fp32",
            "ids": "*i64",
            "logprobs": "*fp32",
            "p1": "*fp32",
            "entropy": "*fp32",
            "candidates": "i32",
            "splits": "i32",
        },
        constants | {"SPLITS": triton.next_power_of_2(posterior.splits_of(151936))},
        8,
        tmp_path,
    )
    merge.fits(arch)


@pytest.mark.parametrize("arch", [80, 90])
def test_gate_and_noise_compile(arch: int, tmp_path: Path) -> None:
    columns = dict.fromkeys(gate._GATE_ARGUMENTS, "*i1")
    columns |= {"p1": "*fp32", "entropy": "*fp32", "gate_noise": "*fp64", "gate": "*i64"}
    columns |= {"gate_value": "*fp32", "depth": "*i64"}
    lists = {"live_rows": "*i32", "live_count": "*i32", "live_total": "*i64"}
    compiled = Compiled(
        gate.gate_kernel,
        arch,
        columns
        | lists
        | {
            "explored_out": "*i1",
            "explore_probability": "*fp64",
            "projected_out": "*i1",
            "batch": "i32",
            "layers": "i32",
        },
        {"ROWS": gate._ROWS_AT_ONCE},
        4,
        tmp_path,
    )
    compiled.fits(arch)
    compiled = Compiled(
        noise.noise_kernel,
        arch,
        {
            "stream_seed": "*i64",
            "stream_step": "*i64",
            "seeds": "*i64",
            "has_seed": "*i1",
            "positions": "*i64",
            "ids": "*i64",
            "gate": "*fp64",
            "pick": "*fp64",
            "candidates": "i32",
        },
        {"SLOTS": noise._SLOTS},
        4,
        tmp_path,
    )
    compiled.fits(arch)


@pytest.mark.parametrize(
    ("hidden", "name"), [*((hidden, "bf16") for hidden in HIDDEN), (4096, "fp16"), (4096, "fp32")]
)
@pytest.mark.parametrize("arch", [80, 90])
def test_gather_and_partials_compile(arch: int, hidden: int, name: str, tmp_path: Path) -> None:
    compiled = Compiled(
        gather.gather_latents_kernel,
        arch,
        {
            "latents": f"*{name}",
            "temperature": "*fp32",
            "release_layers": "*i1",
            "live_rows": "*i32",
            "live_count": "*i32",
            "latent_rows": f"*{name}",
            "row_scale": "*fp32",
            "request_stride": "i32",
            "layer_stride": "i32",
            "layers": "i32",
            "first": "i32",
            "captured": "i32",
        },
        {"HIDDEN": hidden, "BLOCK": gather._HIDDEN_AT_ONCE},
        4,
        tmp_path,
    )
    compiled.fits(arch)
    dots = Compiled(
        partials.latent_partials_kernel,
        arch,
        {
            "weight": f"*{name}",
            "latent_rows": f"*{name}",
            "row_scale": "*fp32",
            "tile_max": "*fp32",
            "tile_sum": "*fp32",
            "live_rows": "*i32",
            "live_count": "*i32",
            "ids": "*i64",
            "temperature": "*fp32",
            "partials": "*fp32",
            "first_listed": "i32",
            "layers": "i32",
            "candidates": "i32",
            "columns": "i32",
            "column_tiles": "i32",
            "vocab_start": "i32",
            "logit_scale": "fp32",
            "softcap": "fp32",
        },
        {
            "HIDDEN": hidden,
            "WEIGHT_STRIDE": hidden,
            "HAS_SOFTCAP": True,
            "TILES": partials._TILES_AT_ONCE,
            "CANDIDATES": partials._CANDIDATES_AT_ONCE,
            "BLOCK_H": partials._HIDDEN_AT_ONCE,
        },
        4,
        tmp_path,
    )
    dots.fits(arch)


# Rows of 16, 32 and 64 layers: depths up to 16, 32 and 64.
@pytest.mark.parametrize("layers", [16, 32, 64])
@pytest.mark.parametrize("arch", [80, 90])
def test_combine_compiles(arch: int, layers: int, tmp_path: Path) -> None:
    compiled = Compiled(
        combine.combine_kernel,
        arch,
        {
            "gathered": "*fp32",
            "ids": "*i64",
            "logprobs": "*fp32",
            "pick_noise": "*fp64",
            "explored_in": "*i1",
            "explore_probability": "*fp64",
            "projected_in": "*i1",
            "depth": "*i64",
            "floor": "*fp32",
            "normalize_layers": "*i1",
            "greedy": "*i1",
            "token_ids": "*i64",
            "depth_out": "*i64",
            "layer_probs": "*fp32",
            "behaviour_probs": "*fp32",
            "behaviour_logprob": "*fp32",
            "layers": "i32",
            "candidates": "i32",
            "ranks": "i32",
        },
        {"LAYERS": layers, "CANDIDATES": combine.MAX_CANDIDATES},
        combine.combine_warps(layers),
        tmp_path,
    )
    compiled.fits(arch)
