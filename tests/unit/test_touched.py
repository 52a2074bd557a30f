"""The table of touched symbols is complete and fits the installed SGLang."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import led_sglang
from led_sglang.patches import TOUCHED
from led_sglang.patches.touched import Symbol, complaint, missing, problem

FOLDERS = [Path(led_sglang.__file__).parent, Path(led_sglang.patches.__file__).parent]
DEEPSEEK = "sglang.srt.models.deepseek_common"
# The CPU platform uses these; it is chosen explicitly and fails by itself without them.
OF_THE_CPU_PLATFORM = {
    "sglang.srt.platforms.cpu.CpuDeviceMixin",
    "sglang.srt.platforms.device_mixin.PlatformEnum",
    "sglang.srt.platforms.interface.SRTPlatform",
    f"{DEEPSEEK}.attention_backend_handler.AttentionBackendRegistry",
    f"{DEEPSEEK}.attention_forward_methods.forward_methods.AttnForwardMethod",
    "sglang.srt.layers.attention.linear.gdn_backend",
    "sglang.srt.layers.attention.mamba.mamba",
    "sglang.srt.layers.attention.mamba.mixer2_rms_norm_gated",
    "sglang.srt.layers.layernorm",
    "sglang.srt.layers.logits_processor",
    "sglang.srt.layers.moe.topk",
    "sglang.srt.models.hunyuan",
    "sglang.srt.models.lfm2",
    "sglang.srt.models.lfm2_moe",
    "sglang.srt.models.minimax_m2",
    "sglang.srt.models.qwen2_moe",
    "sglang.srt.models.qwen3_5",
    "sglang.srt.models.qwen3_next",
}
# Extra HTTP workers alone import it, and none of them starts without it; every other process would
# pay seconds for the check.
OF_HTTP_WORKERS = {"sglang.srt.entrypoints.http_server.app"}


def imported_from_sglang() -> Iterator[str]:
    for folder in FOLDERS:
        for file in folder.rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sglang."):
                    yield from (f"{node.module}.{alias.name}" for alias in node.names)
                if isinstance(node, ast.Import):
                    assert not any(alias.name.startswith("sglang") for alias in node.names)


def test_every_import_from_sglang_is_in_the_table() -> None:
    listed = {symbol.path for symbol in TOUCHED}
    names = set(imported_from_sglang())
    assert len(names) > 20
    absent = {
        name
        for name in names - OF_THE_CPU_PLATFORM - OF_HTTP_WORKERS
        # a class stands in the table by its methods
        if name not in listed and not any(path.startswith(f"{name}.") for path in listed)
    }
    assert absent == set()


def test_the_installed_sglang_fits() -> None:
    assert missing(TOUCHED) == []


@pytest.mark.parametrize(
    ("path", "parameters", "what"),
    [
        ("sglang.srt.server_args.Gone", None, "is missing"),
        ("sglang.srt.gone.Gone", None, "is missing"),
        ("sglang.srt.server_args.prepare_server_args", ("argv", "more"), "instead of (argv, more)"),
    ],
)
def test_what_moved_is_told(path: str, parameters: tuple[str, ...] | None, what: str) -> None:
    assert what in (problem(Symbol(path, parameters, "")) or "")


def test_a_sentence_holds_the_first_of_many_problems() -> None:
    """An SGLang of another time, or a checkout installed before its files moved, lacks them all."""
    said = complaint([f"sglang.srt.x{i} is missing" for i in range(60)])
    assert "x0 is missing; sglang.srt.x1 is missing; sglang.srt.x2 is missing; and 57 more" in said
    assert "led-sglang doctor" in said
    assert "more" not in complaint(["sglang.srt.x0 is missing"])
