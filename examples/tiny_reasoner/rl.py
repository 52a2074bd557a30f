"""Reinforcement learning (GRPO, with TRL) of the supervised model, rewarded for right answers.

    python -m tiny_reasoner.rl --data build/tiny_reasoner --model build/tiny_reasoner/sft/model \\
        --out build/tiny_reasoner/rl

Started again after an interruption it goes on from the last checkpoint.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, set_seed
from trl import GRPOConfig, GRPOTrainer

from tiny_reasoner.checkpoints import last_checkpoint, refuse_other_words, write_log
from tiny_reasoner.data import RL_PROBLEMS, read
from tiny_reasoner.sft import prompt_text
from tiny_reasoner.task import LEVELS, reward
from tiny_reasoner.tokenizer import make_tokenizer


def right_answer(completions: list[str], expected_answer: list[str], **_: Any) -> list[float]:
    """TRL's form of the reward."""
    return [reward(text, gold) for text, gold in zip(completions, expected_answer, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description="GRPO with a verifiable reward.")
    parser.add_argument("--data", type=Path, required=True, help="folder of tiny_reasoner.data")
    parser.add_argument("--model", type=Path, required=True, help="the supervised model")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--level", choices=tuple(LEVELS), default="search")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=128, help="completions a step")
    parser.add_argument("--group-size", type=int, default=8, help="completions a problem")
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    set_seed(options.seed)
    tokenizer = make_tokenizer(LEVELS[options.level].rooms)
    refuse_other_words(options.model, tokenizer)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    # TRL samples with its own settings; the model's, for its users, come back at the end.
    for_users = model.generation_config.to_dict()
    problems = read(options.data / RL_PROBLEMS)
    trainer = GRPOTrainer(
        model=model,
        processing_class=tokenizer,
        reward_funcs=right_answer,
        train_dataset=Dataset.from_dict(
            {
                "prompt": [prompt_text(tokenizer, row["problem"]) for row in problems],
                "expected_answer": [row["expected_answer"] for row in problems],
            }
        ),
        args=GRPOConfig(
            output_dir=str(options.out / "checkpoints"),
            max_steps=options.steps,
            per_device_train_batch_size=options.batch_size,
            num_generations=options.group_size,
            steps_per_generation=1,
            max_completion_length=LEVELS[options.level].max_new_tokens,
            temperature=1.0,
            beta=0.0,
            learning_rate=options.learning_rate,
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=10,
            weight_decay=0.0,
            logging_steps=5,
            save_steps=25,
            save_total_limit=2,
            seed=options.seed,
            use_cpu=not torch.cuda.is_available(),
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            dataloader_pin_memory=torch.cuda.is_available(),
        ),
    )
    trainer.train(resume_from_checkpoint=last_checkpoint(options.out / "checkpoints", tokenizer))
    trainer.model.generation_config = type(model.generation_config)(**for_users)
    trainer.save_model(str(options.out / "model"))
    write_log(trainer, options.out)


if __name__ == "__main__":
    main()
