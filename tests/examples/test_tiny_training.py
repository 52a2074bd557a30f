"""The tiny reasoner's training, a few steps of each stage: data, SFT, GRPO, measuring, shipping."""

from __future__ import annotations

import json
import resource
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_reasoner import data, rl, sft
from tiny_reasoner.checkpoints import last_checkpoint
from tiny_reasoner.curves import draw
from tiny_reasoner.measure import measure
from tiny_reasoner.sampling import encode, load
from tiny_reasoner.scale import rescale
from tiny_reasoner.ship import ship
from tiny_reasoner.task import LEVELS
from tiny_reasoner.tokenizer import make_tokenizer
from transformers import AutoConfig

from led_sglang.models.bundled import bundled_model, check_files

torch.set_num_threads(1)

SEARCH = LEVELS["search"]


def run(stage: Any, *arguments: object) -> None:
    """A stage as the Makefile runs it, in this process: importing TRL takes longest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [stage.__name__, *map(str, arguments)])
        stage.main()


def train_sft(folder: Path) -> None:
    run(sft, *("--data", folder, "--out", folder / "sft", "--examples", 320, "--batch-size", 16))


def train_rl(folder: Path, steps: int) -> None:
    """From the bundled model before RL: it is right at times, so that there are advantages."""
    sizes = ("--steps", steps, "--batch-size", 16, "--group-size", 8)
    model = bundled_model("tiny-reasoner-sft")
    run(rl, *("--data", folder, "--model", model, "--out", folder / "rl", *sizes))


def state(folder: Path, stage: str) -> dict[str, Any]:
    text = (folder / stage / "trainer_state.json").read_text()
    found: dict[str, Any] = json.loads(text)
    return found


def weights(folder: Path, stage: str) -> dict[str, torch.Tensor]:
    return load_file(folder / stage / "model" / "model.safetensors")


def differ(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both stages, a few steps."""
    folder = tmp_path_factory.mktemp("training")
    data.write(folder, SEARCH, traces=320, rl_problems=16, held_out=8, seed=0)
    train_sft(folder)
    train_rl(folder, steps=2)
    return folder


def test_sft_learns(trained: Path) -> None:
    losses = [entry["loss"] for entry in state(trained, "sft")["log_history"] if "loss" in entry]
    assert state(trained, "sft")["global_step"] == 20
    assert losses[-1] < losses[0] < 6.0  # log V = 5.9
    config = AutoConfig.from_pretrained(trained / "sft" / "model")
    assert config.num_hidden_layers == sft.LAYERS


def test_grpo_steps_and_goes_on_from_its_checkpoint(trained: Path) -> None:
    assert state(trained, "rl")["global_step"] == 2
    two = weights(trained, "rl")
    assert differ(two, load_file(bundled_model("tiny-reasoner-sft") / "model.safetensors"))
    train_rl(trained, steps=3)
    assert state(trained, "rl")["global_step"] == 3
    assert differ(two, weights(trained, "rl"))


def test_the_reward_of_grpo_is_that_of_the_task() -> None:
    right = "1 2 3 4 5 6 7 done\n</think>\n\n1234567<|im_end|>"
    answers = ["1234567", "7654321"]
    assert rl.right_answer([right, right], expected_answer=answers) == [1.0, 0.0]


def test_a_stage_goes_on_from_the_newest_whole_checkpoint(trained: Path, tmp_path: Path) -> None:
    """A kill or a full disk leaves a checkpoint without its log, or with half of one."""
    tokenizer = make_tokenizer(SEARCH.rooms)
    checkpoints = shutil.copytree(trained / "sft" / "checkpoints", tmp_path / "checkpoints")
    (whole,) = checkpoints.glob("checkpoint-*")
    (checkpoints / "checkpoint-100").mkdir()
    half = checkpoints / "checkpoint-90"
    half.mkdir()
    (half / "trainer_state.json").write_text('{"global_step": 9')
    assert last_checkpoint(checkpoints, tokenizer) == str(whole)
    shutil.rmtree(whole)
    assert last_checkpoint(checkpoints, tokenizer) is None
    assert last_checkpoint(tmp_path / "missing", tokenizer) is None


def test_a_checkpoint_of_another_vocabulary_is_refused(trained: Path, tmp_path: Path) -> None:
    other = make_tokenizer(SEARCH.rooms + 1)
    with pytest.raises(SystemExit, match="another vocabulary"):
        last_checkpoint(trained / "sft" / "checkpoints", other)
    other.save_pretrained(tmp_path / "model")
    for stage in (sft, rl):
        with pytest.raises(SystemExit, match=r"another vocabulary \(390 tokens\).*\(374\)"):
            run(stage, *("--data", trained, "--model", tmp_path / "model", "--out", tmp_path))
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_a_disk_that_is_full_leaves_no_file_that_looks_done(tmp_path: Path) -> None:
    """Not a byte more than allowed: what a full disk does, for this process alone."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            data.write(tmp_path, LEVELS["budget"], traces=200, rl_problems=1, held_out=1, seed=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [file.name for file in tmp_path.iterdir()] == ["traces.part"]


def test_rescaling_changes_the_latents_and_no_answer(trained: Path) -> None:
    folder = trained / "sft" / "model"
    model, tokenizer = load(folder, SEARCH)
    rows = data.read(trained / data.HELD_OUT)
    prompts = encode(tokenizer, rows)
    before = model(**prompts, output_hidden_states=True)
    scale = rescale(model, prompts["input_ids"].tolist())
    after = model(**prompts, output_hidden_states=True)
    torch.testing.assert_close(before.logits, after.logits, atol=1e-3, rtol=1e-3)
    latents = before.hidden_states[-2] * scale
    torch.testing.assert_close(latents, after.hidden_states[-2], atol=1e-3, rtol=1e-3)
    assert scale < 0.9
    # It is at its scale already.
    assert rescale(model, prompts["input_ids"].tolist()) == pytest.approx(1.0, abs=1e-3)


def test_finished_sft_is_not_done_again(trained: Path) -> None:
    before = weights(trained, "sft")
    train_sft(trained)
    assert not differ(before, weights(trained, "sft"))


def test_what_was_trained_is_measured_drawn_and_shipped(trained: Path, tmp_path: Path) -> None:
    rows = data.read(trained / data.HELD_OUT)
    measured = measure(trained / "rl" / "model", rows, SEARCH)
    assert measured["problems"] == 8
    assert 0.0 <= measured["greedy_accuracy"] <= 1.0
    assert 0.0 < measured["top1"] < 1.0
    assert 0.0 < measured["entropy"] < 6.0
    draw(trained / "sft", trained / "rl", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    folder = ship(trained / "rl" / "model", "tiny-reasoner", rows, tmp_path)
    check_files(folder)
    assert {t.dtype for t in load_file(folder / "model.safetensors").values()} == {torch.bfloat16}
    assert "8 held-out problems" in (folder / "README.md").read_text()
