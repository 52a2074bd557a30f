"""Turn a trained checkpoint into a model to ship: bfloat16, a model card, checksums.

    python -m tiny_reasoner.ship --model build/tiny_reasoner/rl/model --name tiny-reasoner \\
        --data build/tiny_reasoner --out led_sglang/models
    python -m tiny_reasoner.ship --model build/tiny_reasoner-budget/rl/model \\
        --name tiny-reasoner-budget --data build/tiny_reasoner-budget \\
        --out examples/tiny_reasoner/models
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from led_sglang.models.bundled import write_checksums
from tiny_reasoner.data import HELD_OUT, read
from tiny_reasoner.measure import measure
from tiny_reasoner.task import LEVELS

_BEFORE = "after supervised training on search traces, before RL"
_AFTER = "after supervised training on search traces and GRPO"
# Stage and level of the models that are shipped, by name.
STAGES = {
    "tiny-reasoner-sft": (_BEFORE, "search"),
    "tiny-reasoner": (_AFTER, "search"),
    "tiny-reasoner-budget-sft": (_BEFORE, "budget"),
    "tiny-reasoner-budget": (_AFTER, "budget"),
}
_WALKS = {
    "search": "as many as it takes",
    "budget": "one, right or not. It is made to be wrong at times: the bundled model is better",
}
_CARD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---

# {name}

A Qwen3 of {millions:.2f} M parameters ({layers} layers, hidden size {hidden}) that walks through
{rooms} rooms, {stage}. It comes with led-sglang, which shows with it what
Latent Exploration Decoding does; it knows nothing else.

* **Prompt** (one user turn): `{problem}`
  Doors are written with the smaller room first; a problem has {rooms} rooms, {doors} doors and one
  solution.
* **Completion**: walks in `<think>` tags, `stuck` where one cannot go on, `done` at the last room;
  then the last walk as a number. Here: `{answer}`.
  Walks a thought: {walks}.
* **Data**: made by `examples/tiny_reasoner/data.py`, nothing else: random problems, thoughts by
  depth-first search in random order, at most {longest} tokens long. Problems whose shape (the graph
  up to the names of its rooms, with its start) is held out are in no training file.
* **Recipe**: `make tiny-reasoner LEVEL={level}` (`sft.py`: TRL's SFTTrainer, loss on prompt
  and completion; `rl.py`: TRL's GRPOTrainer, reward 1 for the right answer, no KL term). Trained on
  a CPU.
* **Measured** on {problems} held-out problems, bfloat16 weights, in transformers:
  greedy {greedy:.1f}% ± {error:.1f} (standard error), sampled at temperature 1 {sampled:.1f}%;
  a random walk that never goes back is right in {chance:.1f}%.
  Thought tokens at temperature 1: mean top-1 probability {top1:.3f}, entropy {entropy:.3f} nats.
* **Limits**: other text gives some answer without meaning.
* **Licence**: Apache-2.0.
"""


def ship(model_path: Path, name: str, rows: list[dict[str, Any]], out: Path) -> Path:
    """Write the folder of a shipped model.

    Args:
        model_path: the trained checkpoint, any dtype.
        name: one of STAGES.
        rows: held-out problems to measure it on.
        out: folder of the models.
    """
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer: Any = AutoTokenizer.from_pretrained(model_path)
    model: Any = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    stage, level_name = STAGES[name]
    level = LEVELS[level_name]
    measured = measure(folder, rows, level)
    card = _CARD.format(
        name=name,
        stage=stage,
        level=level_name,
        rooms=level.rooms,
        doors=level.doors,
        longest=level.longest,
        walks=_WALKS[level_name],
        millions=model.num_parameters() / 1e6,
        layers=model.config.num_hidden_layers,
        hidden=model.config.hidden_size,
        problem=rows[0]["problem"],
        answer=rows[0]["expected_answer"],
        problems=measured["problems"],
        greedy=100 * measured["greedy_accuracy"],
        error=100 * measured["greedy_accuracy_stderr"],
        sampled=100 * measured["sampled_accuracy"],
        chance=100 * measured["chance"],
        top1=measured["top1"],
        entropy=measured["entropy"],
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
    write_checksums(folder)
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the folder of a shipped model.")
    parser.add_argument("--model", type=Path, required=True, help="the trained checkpoint")
    parser.add_argument("--name", choices=tuple(STAGES), required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder of tiny_reasoner.data")
    parser.add_argument("--out", type=Path, default=Path("led_sglang/models"))
    parser.add_argument("--limit", type=int, default=200, help="problems to measure it on")
    options = parser.parse_args()
    problems = read(options.data / HELD_OUT)[: options.limit]
    print(ship(options.model, options.name, problems, options.out))
