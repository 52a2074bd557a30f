"""What LED would draw from where the model is unsure, and whether the task allows it.

At each thought token whose likeliest candidate has less than nine tenths, both sides of LED's gate
are computed by the float64 reference from transformers' hidden states: the final layer's candidates
and the mix of layers that an exploring step draws from. A token is allowed if it goes on with a
search that makes no mistake.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from led_sglang.kernels import LedReference, led_reference
from tiny_reasoner.task import DONE, STUCK, Problem
from tiny_reasoner.thoughts import parse_problem

SURE = 0.9


def unsure_steps(
    model_path: Path,
    answers: Path,
    problems: list[str],
    *,
    temperature: float,
    depth: int = 8,
    candidates: int = 8,
    final_norm: bool = False,
    walks: int | None = None,
) -> dict[str, float]:
    """Means over the unsure thought tokens of answers.

    Args:
        model_path: the checkpoint.
        answers: `tokens.jsonl` of `led-sglang analyze`, `prompt_ids` and `output_ids` a line.
        problems: the problem of each line.
        temperature, depth, candidates, final_norm: of the LED request.
        walks: that a thought may try, None for any number.

    Returns:
        `steps` and their `share` of the thought tokens; then for the final layer's candidates and
        for the mix the probability of allowed tokens (`final_allowed`, `mix_allowed`) and the
        entropy in nats (`final_entropy`, `mix_entropy`); the share of steps at which the mix has a
        latent layer in it (`deep`); and the total variation between the two (`distance`).
    """
    tokenizer: Any = AutoTokenizer.from_pretrained(model_path)
    model: Any = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32).eval()
    head, layers = model.lm_head.weight.detach(), model.config.num_hidden_layers
    led: dict[str, Any] = {"temperature": temperature, "depth": depth, "candidates": candidates}
    if final_norm:
        led["norm"] = lambda hidden: model.model.norm(hidden.float())
    thoughts, found = 0, []
    lines = answers.read_text(encoding="utf-8").splitlines()
    for line, text in zip(lines, problems, strict=True):
        answer, problem = json.loads(line), parse_problem(text)
        ids = answer["prompt_ids"] + answer["output_ids"]
        with torch.no_grad():
            out = model(torch.tensor([ids]), output_hidden_states=True)
            # [tokens, latents, H], h^{L-1} first; the last of the list is already normed.
            streams = torch.stack(out.hidden_states[1:layers], 2)[0].flip(1)
            for index, written in _thought(tokenizer, answer["output_ids"]):
                thoughts += 1
                at = len(answer["prompt_ids"]) + index - 1
                logits = out.logits[0, at]
                if float((logits.double() / temperature).softmax(0).max()) < SURE:
                    step = led_reference(logits, streams[at], head, **led)
                    found.append(_numbers(step, allowed_tokens(tokenizer, problem, written, walks)))
    means = {key: sum(step[key] for step in found) / len(found) for key in found[0]}
    return {"steps": len(found), "share": len(found) / thoughts, **means}


def _thought(tokenizer: Any, output_ids: list[int]) -> Iterator[tuple[int, str]]:
    """Index of each thought token, and the text of the thought before it."""
    end = tokenizer.convert_tokens_to_ids("</think>")
    for index, token in enumerate(output_ids):
        yield index, tokenizer.decode(output_ids[:index])
        if token == end:
            return


def allowed_tokens(
    tokenizer: Any, problem: Problem, written: str, walks: int | None = None
) -> set[int]:
    """Ids of the tokens with which a search of at most `walks` walks may go on after `written`."""
    line = written[written.rfind("\n") + 1 :]
    if not line:
        is_over = written.endswith(DONE) or written.count("\n") == walks
        texts = ["</think>"] if is_over else [f"{problem.start} "]
    else:
        walk = [int(word) for word in line.split() if word.isdecimal()]
        ways = [room for room in problem.neighbours.get(walk[-1], ()) if room not in walk]
        texts = [f"{room} " for room in ways] or [DONE if len(walk) == problem.rooms else STUCK]
    return {tokenizer(text)["input_ids"][0] for text in texts}


def _numbers(step: LedReference, allowed: set[int]) -> dict[str, float]:
    is_allowed = torch.tensor([token in allowed for token in step.candidate_ids])
    final, mix = step.exploit_probs, step.explore_probs
    return {
        "final_allowed": float(final[is_allowed].sum()),
        "mix_allowed": float(mix[is_allowed].sum()),
        "final_entropy": float(torch.special.entr(final).sum()),
        "mix_entropy": float(torch.special.entr(mix).sum()),
        "deep": float(step.depth > 1),
        "distance": float((final - mix).abs().sum() / 2),
    }
