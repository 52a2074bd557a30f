"""A decode step of a real server reads nothing back, from its batch to its statistics."""

from __future__ import annotations

import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import no_sync_plugin
import pytest
import torch
from extra_plugin import plugin_environment
from harness import serve

METHODS = (
    {"sampler": "led"},
    {"sampler": "led", "led": {"gate": "always", "behaviour_logprobs": True, "trace": True}},
    {"sampler": "led", "led": {"gate": "entropy", "gate_entropy": 1.0, "final_norm": True}},
    {"sampler": "dola"},
    {"sampler": "soft-thinking-gumbel"},
    {"sampler": "led", "led": {"logprobs": "behaviour"}},
    {"sampler": "regular"},
)


def test_no_method_reads_a_value_back(
    model_path: Path, prompts: list[Sequence[int]], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    environment = plugin_environment(tmp_path, Path(no_sync_plugin.__file__))
    enabled = "led,dola,soft-thinking-gumbel"
    with serve(
        model_path,
        *("--enable-samplers", enabled, "--chunked-prefill-size", "128"),
        env=environment | {no_sync_plugin.LOG: str(log)},
    ) as server:
        # Lengths and starts differ, so that batches merge and shrink; seeded and not.
        bodies = [
            (prompts[i], method, {"max_new_tokens": 6 + 5 * i, "temperature": 0.7})
            for i, method in enumerate(METHODS)
        ]
        seeded = {"sampling_seed": 3, "top_p": 0.9, "return_logprob": True}
        bodies += [(p, m, s | seeded) for p, m, s in bodies]
        server.generate_all(bodies)
    lines = log.read_text().splitlines()
    assert {line for line in lines if line.startswith("ran ")} == {
        f"ran {method}" for _, _, method in no_sync_plugin.WATCHED
    }
    assert [line for line in lines if not line.startswith("ran ")] == []


@pytest.mark.parametrize(
    "read", ["x.sum().item()", "x.tolist()", "x.cpu()", "bool(x[0] > 1)", "x[x > 1]"]
)
def test_the_watch_would_notice(read: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    monkeypatch.setenv(no_sync_plugin.LOG, str(log))
    monkeypatch.setattr(no_sync_plugin, "_written", set())
    for name in ("item", "tolist", "cpu", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, getattr(torch.Tensor, name))
    no_sync_plugin.forbid_methods()
    for package, seen in ((f"{no_sync_plugin.PACKAGE}fake", True), ("sglang.srt.fake", False)):
        module: Any = types.ModuleType(package)
        exec(f"def read(x):\n    {read}", vars(module))
        no_sync_plugin.watched(module.read, package)(torch.arange(3.0))
        assert any(f"in {package}" in line for line in log.read_text().splitlines()) == seen
