"""What PLAN.md asks of task and model, measured by regular decoding alone.

    python -m tiny_reasoner.criteria --data build/tiny_reasoner-budget \\
        --before build/tiny_reasoner-budget/sft/model --after build/tiny_reasoner-budget/rl/model

Prints the table before and after RL; in transformers, float32, without a server.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from led_sglang.evaluation.report.tables import Table, markdown
from tiny_reasoner.data import HELD_OUT, read
from tiny_reasoner.measure import measure
from tiny_reasoner.sampling import load, sampled_rewards
from tiny_reasoner.task import LEVELS, Level

TEMPERATURES = (0.1, 0.3, 0.6, 1.0)
N = 16
# Where a second sixteen is drawn: what a problem differs by if nothing is changed.
_SEEDS_AT = 0.6
# As the models' generation_config has it.
_FILTER = {"top_p": 0.95, "top_k": 20}


def criteria(models: dict[str, Path], rows: list[dict[str, Any]], level: Level) -> Table:
    """Accuracy by temperature, and how sure the last layer is of thought tokens.

    Args:
        models: folders of the checkpoints, by the name of their column.
        rows: lines of `held_out.jsonl`.
        level: theirs.
    """
    columns = [_column(path, rows, level) for path in models.values()]
    return Table(
        "Regular decoding",
        f"{len(rows)} held-out problems, n = {N}, top_p 0.95, top_k 20, ± standard error over "
        "problems; greedy, entropy and top-1 as `measure.py` has them: of the final layer, over "
        "thought tokens sampled at temperature 1 without a filter. Sd between seeds: standard "
        f"deviation over problems of the difference between two sixteens at T = {_SEEDS_AT:g}.",
        ["", *models],
        [[name, *(column[name] for column in columns)] for name in columns[0]],
    )


def _column(path: Path, rows: list[dict[str, Any]], level: Level) -> dict[str, str]:
    model, tokenizer = load(path, level)
    cells: dict[str, str] = {}
    for temperature in TEMPERATURES:
        sampling = {"temperature": temperature, **_FILTER}
        right = sampled_rewards(model, tokenizer, rows, n=N, seed=0, **sampling)
        cells[f"pass@1, T = {temperature:g}"] = _percent(right.mean(1))
        cells[f"pass@{N}, T = {temperature:g}"] = _percent(right.amax(1))
        if temperature == _SEEDS_AT:
            again = sampled_rewards(model, tokenizer, rows, n=N, seed=1000, **sampling)
            spreads = [
                (right.mean(1) - again.mean(1)).std(),
                (right.amax(1) - again.amax(1)).std(),
            ]
            cells["sd between seeds, pass@1"] = f"{100 * spreads[0]:.1f}"
            cells[f"sd between seeds, pass@{N}"] = f"{100 * spreads[1]:.1f}"
    measured = measure(path, rows, level)
    cells["greedy"] = f"{100 * measured['greedy_accuracy']:.1f}"
    cells["chance"] = f"{100 * measured['chance']:.1f}"
    for key in ("entropy", "top1"):
        cells[key] = f"{measured[key]:.3f} ± {measured[f'{key}_stderr']:.3f}"
    return cells


def _percent(values: torch.Tensor) -> str:
    error = values.std() / len(values) ** 0.5
    return f"{100 * values.mean():.1f} ± {100 * error:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="The criteria of PLAN.md, by regular decoding.")
    parser.add_argument("--data", type=Path, required=True, help="folder of tiny_reasoner.data")
    parser.add_argument("--level", choices=tuple(LEVELS), default="budget")
    parser.add_argument("--before", type=Path, required=True)
    parser.add_argument("--after", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=300)
    options = parser.parse_args()
    models = {"before RL": options.before, "after RL": options.after}
    rows = read(options.data / HELD_OUT)[: options.limit]
    print(markdown(criteria(models, rows, LEVELS[options.level])))


if __name__ == "__main__":
    main()
