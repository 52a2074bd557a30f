"""GRPO with a server's rollouts, a few steps, with a server that answers at random."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rl_rollouts import rollouts, train

torch.set_num_threads(1)

BATCH = 8


class RandomServer:
    """Answers what `rollouts` posts, and keeps the seeds that were asked for."""

    def __init__(self) -> None:
        self.seeds: list[int] = []
        self.updates = 0

    def post(self, session: Any, url: str, body: Any) -> Any:
        if not url.endswith("/generate"):
            self.updates += url.endswith("/update_weights_from_tensor")
            return {"success": True}
        samplings = body["sampling_params"]
        self.seeds += [s["sampling_seed"] for s in samplings if "sampling_seed" in s]
        return [{"meta_info": {"output_token_logprobs": self.answer()}} for _ in samplings]

    def answer(self) -> list[tuple[float, int, None]]:
        return [(-2.0, random.randrange(300), None) for _ in range(random.randint(3, 6))]


def run(out: Path, steps: int, monkeypatch: pytest.MonkeyPatch) -> tuple[RandomServer, Any]:
    """As rl_rollouts.run starts an arm; the trainer's state afterwards."""
    server = RandomServer()
    monkeypatch.setattr(rollouts, "_post", server.post)
    sizes = ("--steps", steps, "--batch", BATCH, "--group", 4, "--held-out", 4, "--every", 1)
    arguments = ("--url", "http://nowhere", "--arm", "led-q", "--out", out, *sizes)
    monkeypatch.setattr(sys, "argv", ["train", *map(str, arguments)])
    train.main()
    return server, json.loads((out / "trainer_state.json").read_text())


def test_an_arm_goes_on_from_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes up the log, and no step draws with the seeds of another."""
    first, state = run(tmp_path, 2, monkeypatch)
    assert state["global_step"] == 2
    assert len(set(first.seeds)) == len(first.seeds) == 2 * BATCH
    # Before each step's rollouts, and before each measurement.
    assert first.updates == 2 + 3

    second, state = run(tmp_path, 3, monkeypatch)
    assert state["global_step"] == 3
    assert len(second.seeds) == BATCH
    assert min(second.seeds) == max(first.seeds) + 1
    log = state["log_history"]
    assert [entry["step"] for entry in log if "ratio/mean" in entry] == [1, 2, 3]
    assert [entry["step"] for entry in log if "held_out" in entry] == [0, 1, 2, 3]
