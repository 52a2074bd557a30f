"""Supervised training on search traces, with TRL.

    python -m tiny_reasoner.sft --data build/tiny_reasoner --out build/tiny_reasoner/sft

Started again after an interruption it goes on from the last checkpoint.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM, set_seed
from trl import SFTConfig, SFTTrainer

from tiny_reasoner.checkpoints import last_checkpoint, refuse_other_words, write_log
from tiny_reasoner.data import TRACES, read
from tiny_reasoner.scale import rescale
from tiny_reasoner.task import LEVELS
from tiny_reasoner.tokenizer import MAX_POSITION, make_tokenizer

LAYERS = 10


def make_model(tokenizer: Any) -> Qwen3ForCausalLM:
    """A Qwen3 of 1.0 M parameters, initialised at random."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=224,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        tie_word_embeddings=True,
        max_position_embeddings=MAX_POSITION,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        initializer_range=0.06,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen3ForCausalLM(config)
    # What Qwen3 publishes for its thinking mode, so that a bare request samples.
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=0.6,
        top_p=0.95,
        top_k=20,
        eos_token_id=[tokenizer.eos_token_id, tokenizer.pad_token_id],
        pad_token_id=tokenizer.pad_token_id,
    )
    return model


def prompt_text(tokenizer: Any, problem: str) -> str:
    """The chat prompt of a problem; its template opens the thought."""
    text: str = tokenizer.apply_chat_template(
        [{"role": "user", "content": problem}], tokenize=False, add_generation_prompt=True
    )
    return text


def make_dataset(rows: list[dict[str, Any]], tokenizer: Any) -> Dataset:
    """Token ids of prompts with their completions; the loss is taken on both."""
    texts = [prompt_text(tokenizer, row["problem"]) + row["completion"] for row in rows]
    return Dataset.from_dict({"input_ids": tokenizer(texts)["input_ids"]})


def main() -> None:
    parser = argparse.ArgumentParser(description="Supervised training on search traces.")
    parser.add_argument("--data", type=Path, required=True, help="folder of tiny_reasoner.data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--level", choices=tuple(LEVELS), default="search")
    parser.add_argument("--model", type=Path, help="checkpoint to start from, else at random")
    parser.add_argument("--examples", type=int, default=40_000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rescale", action="store_true", help="the residual stream, see scale.py")
    options = parser.parse_args()
    set_seed(options.seed)
    tokenizer = make_tokenizer(LEVELS[options.level].rooms)
    if options.model:
        refuse_other_words(options.model, tokenizer)
        model = Qwen3ForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    else:
        model = make_model(tokenizer)
    rows = read(options.data / TRACES)[: options.examples]
    trainer = SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=make_dataset(rows, tokenizer),
        args=SFTConfig(
            output_dir=str(options.out / "checkpoints"),
            num_train_epochs=1,
            per_device_train_batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            lr_scheduler_type="warmup_stable_decay",
            lr_scheduler_kwargs={"num_decay_steps": len(rows) // options.batch_size // 4},
            warmup_steps=50,
            weight_decay=0.01,
            adam_beta2=0.99,
            max_length=None,
            loss_type="nll",
            train_sampling_strategy="group_by_length",
            logging_steps=10,
            save_steps=50,
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
    if options.rescale:
        rescale(
            trainer.model, [row["input_ids"] for row in trainer.train_dataset.select(range(64))]
        )
    trainer.save_model(str(options.out / "model"))
    write_log(trainer, options.out)


if __name__ == "__main__":
    main()
