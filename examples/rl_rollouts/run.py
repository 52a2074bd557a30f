"""The whole experiment: every arm with every seed on one server, then RESULTS.md.

    python -m rl_rollouts.run --out build/rl_rollouts

Goes on where it was interrupted. An arm that is finished is not trained again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from led_sglang.common.server_process import running_server
from led_sglang.models.bundled import bundled_model
from rl_rollouts.results import write_results
from rl_rollouts.train import ARMS

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description="GRPO with rollouts of a server, three arms.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--results", type=Path, default=HERE, help="where RESULTS.md goes")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    arms = options.arms.split(",")
    runs = {
        (arm, seed): options.out / f"{arm}-{seed}" for seed in range(options.seeds) for arm in arms
    }
    missing = {run: f for run, f in runs.items() if not (f / "trainer_state.json").exists()}
    if missing:
        train(missing, options.out, options.steps)
    write_results(options.results, runs)


def train(runs: Mapping[tuple[str, int], Path], out: Path, steps: int) -> None:
    """Every run one after the other, on one server."""
    flags = ["--model-path", str(bundled_model("tiny-reasoner-sft")), "--dtype", "float32"]
    flags += ["--device", "cpu", "--random-seed", "1"]
    with running_server(flags, out / "server.log") as url:
        for (arm, seed), folder in runs.items():
            command = [sys.executable, "-m", "rl_rollouts.train", "--url", url, "--arm", arm]
            command += ["--seed", str(seed), "--out", str(folder), "--steps", str(steps)]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
