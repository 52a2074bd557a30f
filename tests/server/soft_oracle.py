"""SoftThinking in transformers: a loop that feeds the weighted embedding back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from led_sglang.kernels import gumbel_from_hash, hash32
from led_sglang.kernels.reference.soft_thinking import SoftReference, soft_reference


def gumbel(seed: int, position: int, vocab: int) -> torch.Tensor:
    """[V] the server's noise: a hash of seed, position of the last input token, vocabulary id."""
    return gumbel_from_hash(hash32(torch.tensor(seed), torch.tensor(position), torch.arange(vocab)))


@dataclass
class SoftRun:
    """What the loop emitted; `steps` has the reference of each token of a think phase, by index."""

    tokens: list[int] = field(default_factory=list)
    steps: dict[int, SoftReference] = field(default_factory=dict)
    # Per token, how much the best choice leads: relative.
    leads: list[float] = field(default_factory=list)


class SoftOracle:
    """One request at a time, with a KV cache, from embeddings alone."""

    def __init__(self, path: Path | str, dtype: torch.dtype = torch.float32) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval()
        self.embeddings = self.model.get_input_embeddings().weight.detach()

    @torch.no_grad()
    def run(
        self,
        prompt: Sequence[int],
        new_tokens: int,
        *,
        think_start: int,
        think_end: int,
        seed: int,
        temperature: float,
        top_k: int,
        noisy: bool = False,
        cold_stop: tuple[float, int] = (0.01, 256),
        tool_start: Sequence[int] = (),
        bias: Mapping[int, float] = {},
        fed: Sequence[tuple[int, dict[str, Any]]] | None = None,
        **soft: Any,
    ) -> SoftRun:
        """Generate; the prompt has opened the think phase.

        Args:
            noisy: the Gumbel variant.
            cold_stop: entropy and length thresholds.
            tool_start: tokens that end the thought as `think_end` does.
            bias: added to the logits of these ids.
            fed: the server's own tokens and trace entries, to feed in place of the loop's. Rounding
                errors of a mixture grow some fourfold a step in a random model, so that even
                float32 and float64 part within ten steps; fed alike, every step is comparable.
            soft: further arguments of `soft_reference`.
        """
        run, streak, thinking, so_far = SoftRun(), 0, True, list[int]()
        out = self.model(torch.tensor([list(prompt)]), use_cache=True)
        for step in range(new_tokens):
            logits = out.logits[0, -1].clone()
            for token_id, value in bias.items():
                logits[token_id] += value
            noise = gumbel(seed, len(prompt) + step - 1, len(logits))
            if thinking:
                reference = soft_reference(
                    logits,
                    temperature=temperature,
                    top_k=top_k,
                    gumbel=noise if noisy else None,
                    **soft,
                )
                weights = reference.weights
                streak = streak + 1 if reference.entropy < cold_stop[0] else 0
                token = think_end if streak >= cold_stop[1] else reference.ids[0]
                rows = self.embeddings[reference.ids].double()
                soft_input = (weights[:, None] * rows).sum(0).to(self.embeddings.dtype)
                run.steps[step] = reference
                run.leads.append(
                    float(1 - weights[1] / weights[0])
                    if len(weights) > 1 and streak < cold_stop[1]
                    else 1.0
                )
            else:
                # The engine's part, with the request's seed: a Gumbel draw from the top_k.
                top = (logits.double() / temperature).topk(top_k)
                score = top.values + noise[top.indices]
                best = score.topk(2).values.tolist()
                token = int(top.indices[score.argmax()])
                run.leads.append((best[0] - best[1]) / max(abs(best[0]), 1.0))
            run.tokens.append(token)
            if fed is not None:
                token, entry = fed[step]
                if thinking:
                    mixture = torch.tensor(entry["weights"], dtype=torch.float64)
                    rows = self.embeddings[entry["ids"]].double()
                    soft_input = (mixture[:, None] * rows).sum(0).to(self.embeddings.dtype)
            so_far.append(token)
            calls = bool(tool_start) and so_far[-len(tool_start) :] == list(tool_start)
            # What closes the thought is fed as itself; a new opening delimiter starts another one.
            is_soft = thinking and token != think_end and not calls
            next_input = soft_input if is_soft else self.embeddings[token]
            thinking = is_soft or token == think_start
            out = self.model(
                inputs_embeds=next_input[None, None],
                past_key_values=out.past_key_values,
                use_cache=True,
            )
        return run
