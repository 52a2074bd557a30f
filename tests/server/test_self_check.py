"""The checks at launch on real servers whose steps or captured layers are wrong on purpose."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import wrong_step_plugin
from extra_plugin import plugin_environment
from features.checks import ALWAYS, GREEDY, assert_led_tokens
from harness import serve
from oracle import Oracle


def environment(folder: Path, fault: str) -> dict[str, str]:
    plugin = plugin_environment(folder, Path(wrong_step_plugin.__file__))
    return plugin | {wrong_step_plugin.FAULT: fault}


def test_a_step_that_is_wrong_on_one_rank_gives_way_to_torch(
    model_path: Path, prompts: list[Sequence[int]], tmp_path: Path
) -> None:
    with serve(model_path, "--tp", "2", env=environment(tmp_path, "token@1")) as server:
        led = server.get("/server_info").json()["internal_states"][0]["led"]
        answer = server.generate(prompts[0], {"led": ALWAYS}, **GREEDY, max_new_tokens=16)
        log = server.ready_log()
    sentence = "the self-check at launch found on rank 1: the cpu step is wrong (token differs in"
    assert led["kernels"].startswith(f"torch: {sentence}")
    assert led["self_check"]["mode"] == "on"
    assert led["self_check"]["finding"].startswith(sentence)
    assert 0.0 < led["self_check"]["seconds"] < 2.0
    assert log.count("LED steps run in torch: the self-check") == 1
    assert f"kernels  torch: {sentence}" in log
    assert_led_tokens(Oracle(model_path), prompts[0], answer["output_ids"], **ALWAYS)


def test_a_strict_launch_ends_with_one_sentence(model_path: Path, tmp_path: Path) -> None:
    """Rank 0 alone, and LED reads the LM head one column off."""
    flags = ("--led-self-check", "strict")
    started = serve(model_path, *flags, env=environment(tmp_path, "shard"))
    with pytest.raises(RuntimeError, match="server ended") as ended, started:
        pass
    last = str(ended.value).strip().splitlines()[-1]
    assert "the self-check at launch found: LED reads the LM head otherwise than SGLang" in last
    assert "--sampler regular" in last


def test_layers_that_are_one_off_on_one_rank_end_the_launch(
    model_path: Path, tmp_path: Path
) -> None:
    started = serve(model_path, "--tp", "2", env=environment(tmp_path, "layer@1"))
    with pytest.raises(RuntimeError, match="server ended") as ended, started:
        pass
    said = str(ended.value)
    assert "as dflash captures them, on rank 1 it hands out 112 numbers a layer" in said
    assert "--led-truncation-check off" in said
