"""What a checkpoint can do and how sure it is, on the held-out problems, without a server.

    python -m tiny_reasoner.measure --data build/tiny_reasoner --model build/tiny_reasoner/rl/model

Prints and writes `measured.json` beside the model's folder: greedy accuracy, the chance level, and,
over the thought tokens of samples at temperature 1, the mean top-1 probability and entropy of the
final layer; each with its standard error over problems.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from tiny_reasoner.data import HELD_OUT, read
from tiny_reasoner.sampling import encode, load, rewards
from tiny_reasoner.task import LEVELS, Level


@torch.no_grad()
def measure(
    model_path: Path, rows: list[dict[str, Any]], level: Level, seed: int = 0
) -> dict[str, Any]:
    """Measure one checkpoint on problems.

    Args:
        model_path: its folder.
        rows: lines of `held_out.jsonl`.
        level: theirs.
        seed: of the samples.

    Returns:
        `greedy_accuracy`, `chance`, `sampled_accuracy` (one sample a problem at temperature 1),
        `thought_tokens` (mean of a sample), `top1` (mean probability) and `entropy` (mean, nats) of
        the final posterior over the sampled thought tokens; `NAME_stderr` of all but the chance
        and the length.
    """
    model, tokenizer = load(model_path, level)
    prompts = encode(tokenizer, rows)
    width = prompts["input_ids"].shape[1]
    golds = [row["expected_answer"] for row in rows]
    greedy = rewards(tokenizer, model.generate(**prompts, do_sample=False)[:, width:], golds)
    torch.manual_seed(seed)
    sampled = model.generate(**prompts, do_sample=True, top_k=0, temperature=1.0)
    mask = torch.nn.functional.pad(
        prompts["attention_mask"], (0, sampled.shape[1] - width), value=1
    )
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    logits = model(sampled, attention_mask=mask, position_ids=positions).logits
    log_p = logits[:, width - 1 : -1].double().log_softmax(-1)
    # A token is thought up to the end delimiter, which itself is sampled while thinking.
    end = tokenizer.convert_tokens_to_ids("</think>")
    written = sampled[:, width:]
    is_thought = (written == end).cumsum(-1) - (written == end).long() == 0
    is_thought &= written != tokenizer.pad_token_id
    lengths, once = is_thought.sum(-1).double(), torch.ones(len(rows))
    return {
        "problems": len(rows),
        "chance": sum(row["chance"] for row in rows) / len(rows),
        "thought_tokens": float(lengths.mean()),
        **_mean("greedy_accuracy", greedy, once),
        **_mean("sampled_accuracy", rewards(tokenizer, written, golds), once),
        **_mean("top1", (log_p.amax(-1).exp() * is_thought).sum(-1), lengths),
        **_mean("entropy", (torch.special.entr(log_p.exp()).sum(-1) * is_thought).sum(-1), lengths),
    }


def _mean(name: str, sums: torch.Tensor, counts: torch.Tensor) -> dict[str, float]:
    """A mean over tokens and its standard error over problems, from sums and counts [problems].

    The error is that of a ratio of two means, in the first order.
    """
    sums, counts, problems = sums.double(), counts.double(), len(sums)
    mean = sums.sum() / counts.sum()
    residuals = sums - mean * counts
    spread = residuals.square().sum() * problems / max(problems - 1, 1)
    return {name: float(mean), f"{name}_stderr": float(spread.sqrt() / counts.sum())}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a checkpoint on held-out problems.")
    parser.add_argument("--data", type=Path, required=True, help="folder of tiny_reasoner.data")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--level", choices=tuple(LEVELS), default="search")
    parser.add_argument("--limit", type=int, default=200)
    options = parser.parse_args()
    rows = read(options.data / HELD_OUT)[: options.limit]
    measured = measure(options.model, rows, LEVELS[options.level])
    text = json.dumps(measured, indent=2)
    (options.model.parent / "measured.json").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
