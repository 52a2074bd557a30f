"""Answers of a checkpoint in transformers, without a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tiny_reasoner.sft import prompt_text
from tiny_reasoner.task import Level, reward

# Problems of one batch, so that the samples' KV cache stays below a gigabyte.
_BATCH = 100


def load(model_path: Path, level: Level) -> tuple[Any, Any]:
    """Model, in float32, and tokenizer of a checkpoint; the model's sampling defaults are off."""
    tokenizer: Any = AutoTokenizer.from_pretrained(model_path)
    model: Any = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32).eval()
    model.generation_config = type(model.generation_config)(
        eos_token_id=model.generation_config.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=level.max_new_tokens,
    )
    return model, tokenizer


def encode(tokenizer: Any, rows: list[dict[str, Any]]) -> Any:
    """Prompts of problems, padded on the left: `input_ids` and `attention_mask`."""
    texts = [prompt_text(tokenizer, row["problem"]) for row in rows]
    return tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")


def rewards(tokenizer: Any, written: torch.Tensor, golds: list[str]) -> torch.Tensor:
    """Reward of each completion, [completions]; `written` are its ids, [completions, tokens]."""
    texts = tokenizer.batch_decode(written)
    return torch.tensor([reward(text, gold) for text, gold in zip(texts, golds, strict=True)])


@torch.no_grad()
def sampled_rewards(
    model: Any, tokenizer: Any, rows: list[dict[str, Any]], *, n: int, seed: int, **sampling: float
) -> torch.Tensor:
    """Rewards of n samples a problem, [problems, n].

    Args:
        rows: lines of `held_out.jsonl`.
        seed: of the first batch; the next has the next.
        sampling: of transformers: `temperature`, `top_p`, `top_k`.
    """
    found = []
    for first in range(0, len(rows), _BATCH):
        some = rows[first : first + _BATCH]
        prompts = encode(tokenizer, some)
        torch.manual_seed(seed + first // _BATCH)
        ids = model.generate(**prompts, do_sample=True, num_return_sequences=n, **sampling)
        written = ids[:, prompts["input_ids"].shape[1] :]
        golds = [row["expected_answer"] for row in some for _ in range(n)]
        found.append(rewards(tokenizer, written, golds).reshape(len(some), n))
    return torch.cat(found)
