"""Training curves of both stages: loss, reward, entropy, length.

    python -m tiny_reasoner.curves --sft build/tiny_reasoner/sft --rl build/tiny_reasoner/rl \\
        --out curves.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from matplotlib.figure import Figure


def series(folder: Path, key: str) -> tuple[list[int], list[float]]:
    """Steps and values of one key of a trainer's log."""
    log = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    points = [(entry["step"], entry[key]) for entry in log if key in entry]
    return [step for step, _ in points], [value for _, value in points]


def draw(sft: Path, rl: Path, out: Path) -> None:
    """Four panels: the supervised loss; reward, entropy and length of GRPO."""
    figure = Figure(figsize=(10, 5.4), layout="constrained")
    panels = (
        (sft, "loss", "SFT: loss", "nats a token, prompts included"),
        (rl, "reward", "GRPO: reward", "share of right answers"),
        (rl, "entropy", "GRPO: entropy of the policy", "nats a token"),
        (rl, "completions/mean_length", "GRPO: length", "tokens"),
    )
    for axes, (folder, key, title, unit) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        axes.plot(*series(folder, key), color="#4c8bd6")
        axes.set(title=title, ylabel=unit, xlabel="step")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    figure.savefig(out, dpi=150)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Plot the training of both stages.")
    parser.add_argument("--sft", type=Path, required=True)
    parser.add_argument("--rl", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    draw(options.sft, options.rl, options.out)
