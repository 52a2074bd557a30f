"""One arm of the experiment: GRPO of the tiny reasoner with a server's rollouts.

    python -m rl_rollouts.train --url http://127.0.0.1:30000 --arm led-q --seed 0 --out build/led-q

Started again after an interruption it goes on from the last checkpoint.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import requests
import torch
from datasets import Dataset
from tiny_reasoner.checkpoints import last_checkpoint
from tiny_reasoner.data import problems, read, row
from tiny_reasoner.rl import right_answer
from tiny_reasoner.sft import prompt_text
from tiny_reasoner.task import LEVELS, reward
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback, set_seed
from trl import GRPOConfig, GRPOTrainer

from led_sglang.models.bundled import bundled_model
from rl_rollouts.rollouts import ServerRollouts, complete, send_weights

LEVEL = LEVELS["search"]
HELD_OUT = Path(__file__).parents[1] / "tiny_reasoner" / "held_out.jsonl"
# What each arm draws its rollouts with, and whether the loss is weighed by p/q.
ARMS: dict[str, tuple[dict[str, Any], bool]] = {
    "regular": ({"sampler": "regular"}, False),
    # As the code of the paper: the loss takes the rollouts for draws of the final posterior.
    "led": ({"sampler": "led", "led": {"logprobs": "behaviour"}}, False),
    "led-q": ({"sampler": "led", "led": {"logprobs": "behaviour"}}, True),
}
# The largest weight of a token, as TRL's default.
_CLIP = 3.0


class RolloutTrainer(GRPOTrainer):
    """GRPO with rollouts of a server; notes the ratio of the trainer's probabilities to the
    server's, whether the loss is weighed by it or not."""

    def __init__(self, rollouts: ServerRollouts, weighed: bool, **options: Any) -> None:
        super().__init__(**options)
        self._weighed = weighed
        self.use_vllm, self._last_loaded_step = True, -1
        self.vllm_generation = rollouts

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        self.vllm_generation.step = self.state.global_step
        output = super()._generate_and_score_completions(inputs)
        mask = output["completion_mask"].bool()
        difference = (output["old_per_token_logps"] - output["sampling_per_token_logps"])[mask]
        ratio = difference.double().exp()
        noted = {
            "ratio/mean": float(ratio.mean()),
            "ratio/stderr": float(ratio.std() / len(ratio) ** 0.5),
            "ratio/p999": float(ratio.quantile(0.999)),
            "ratio/max": float(ratio.max()),
            "ratio/largest_difference": float(difference.abs().max()),
        }
        for name, value in noted.items():
            self._metrics["train"][name].append(value)
        if not self._weighed:
            output["importance_sampling_ratio"].fill_(1.0)
        return output


class HeldOut(TrainerCallback):
    """Every so many steps the share of held-out problems that `regular` draws solve."""

    def __init__(self, url: str, tokenizer: Any, count: int, every: int) -> None:
        self._url, self._every = url, every
        rows = read(HELD_OUT)[:count]
        self._golds = [row["expected_answer"] for row in rows]
        self._prompts = tokenizer([prompt_text(tokenizer, row["problem"]) for row in rows])[
            "input_ids"
        ]
        self._tokenizer = tokenizer
        self.trainer: Any = None

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self._every == 0:
            self._measure(state)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 0:
            self._measure(state)

    def _measure(self, state: Any) -> None:
        session = requests.Session()
        send_weights(session, self._url, self.trainer.model)
        sampling = {
            "temperature": 1.0,
            "max_new_tokens": LEVEL.max_new_tokens,
            "custom_params": {"sampler": "regular"},
        }
        answers = complete(session, self._url, self._prompts, [sampling] * len(self._prompts))
        texts = self._tokenizer.batch_decode([[t for _, t, *_ in entries] for entries in answers])
        right = [reward(text, gold) for text, gold in zip(texts, self._golds, strict=True)]
        self.trainer.log({"held_out": sum(right) / len(right)})


def make_trainer(url: str, arm: str, seed: int, out: Path, options: Mapping[str, int]) -> Any:
    """The trainer of one arm.

    Args:
        options: steps, batch (completions a step), group (completions a problem), held_out
            (problems), every (steps between two measurements).
    """
    custom, weighed = ARMS[arm]
    set_seed(seed)
    path = bundled_model("tiny-reasoner-sft")
    tokenizer: Any = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    source = problems(seed + 100, LEVEL, held_out=False)
    rows = [row(next(source), number) for number in range(options["steps"] * options["batch"])]
    sampling = {"temperature": 1.0, "max_new_tokens": LEVEL.max_new_tokens, "custom_params": custom}
    held_out = HeldOut(url, tokenizer, options["held_out"], options["every"])
    trainer = RolloutTrainer(
        ServerRollouts(url, model, sampling, seed),
        weighed,
        model=model,
        processing_class=tokenizer,
        reward_funcs=right_answer,
        callbacks=[held_out],
        train_dataset=Dataset.from_dict(
            {
                "prompt": [prompt_text(tokenizer, r["problem"]) for r in rows],
                "expected_answer": [r["expected_answer"] for r in rows],
            }
        ),
        args=GRPOConfig(
            output_dir=str(out / "checkpoints"),
            max_steps=options["steps"],
            per_device_train_batch_size=options["batch"],
            num_generations=options["group"],
            steps_per_generation=1,
            max_completion_length=LEVEL.max_new_tokens,
            temperature=1.0,
            beta=0.0,
            # On for all arms, so that the ratio is known.
            vllm_importance_sampling_correction=True,
            vllm_importance_sampling_mode="token_truncate",
            vllm_importance_sampling_clip_max=_CLIP,
            learning_rate=3e-4,
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=5,
            weight_decay=0.0,
            logging_steps=1,
            save_steps=10,
            save_total_limit=1,
            seed=seed,
            use_cpu=not torch.cuda.is_available(),
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            dataloader_pin_memory=torch.cuda.is_available(),
        ),
    )
    held_out.trainer = trainer
    return trainer


def main() -> None:
    parser = argparse.ArgumentParser(description="GRPO with a server's rollouts.")
    parser.add_argument("--url", required=True, help="a led-sglang server of the bundled model")
    parser.add_argument("--arm", choices=list(ARMS), required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=64, help="completions a step")
    parser.add_argument("--group", type=int, default=8, help="completions a problem")
    parser.add_argument("--held-out", type=int, default=200, help="problems")
    parser.add_argument("--every", type=int, default=10, help="steps between two measurements")
    options = parser.parse_args()
    sizes = {
        name: getattr(options, name) for name in ("steps", "batch", "group", "held_out", "every")
    }
    trainer = make_trainer(options.url, options.arm, options.seed, options.out, sizes)
    checkpoints = options.out / "checkpoints"
    last = last_checkpoint(checkpoints, trainer.processing_class)
    trainer.train(resume_from_checkpoint=last)
    trainer.state.save_to_json(str(options.out / "trainer_state.json"))


if __name__ == "__main__":
    main()
