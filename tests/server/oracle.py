"""Independent oracle: Hugging Face transformers' hidden states and the float64 reference.

Shares no code with the server's path: another model implementation, another LED implementation.
Teacher-forced on the server's own tokens, so one forward gives every step of a completion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from led_sglang.kernels.reference import LedReference, led_reference
from transformers import AutoModelForCausalLM

# A step at which the oracle's own two best choices are this close (relative) may go either way.
NEAR_TIE = 1e-4


@dataclass
class Verdict:
    """Steps compared, near ties among them, and the first few real differences."""

    steps: int = 0
    near_ties: int = 0
    differences: list[str] | None = None

    def add(self, other: Verdict) -> None:
        self.steps += other.steps
        self.near_ties += other.near_ties
        self.differences = (self.differences or []) + (other.differences or [])


class Oracle:
    """A model in transformers, float32, with every layer's hidden states."""

    def __init__(self, path: Path | str) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self.layers: int = self.model.config.num_hidden_layers
        self.norm = self.model.model.norm
        self.head = self.model.lm_head.weight.detach()

    @torch.no_grad()
    def states(self, ids: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Final logits [T, V] and residual streams [T, L-1, H], index 0 = h^{L-1}.

        Transformers' `hidden_states[l]` is h^l for l < L; its last entry is already normed.
        """
        out = self.model(torch.tensor([list(ids)]), output_hidden_states=True)
        streams = torch.stack(out.hidden_states[1 : self.layers], dim=1)[0]
        return out.logits[0], streams.transpose(0, 1).flip(1)

    def step(self, logits: torch.Tensor, streams: torch.Tensor, **led: Any) -> LedReference:
        """The reference for one position, see `led_reference`."""
        norm = self._norm if led.pop("final_norm", False) else None
        return led_reference(logits, streams, self.head, norm=norm, **led)

    def _norm(self, hidden: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            normed: torch.Tensor = self.norm(hidden.float()).double()
        return normed

    def check_greedy(
        self, prompt: Sequence[int], tokens: Sequence[int], thinks: Sequence[bool], **led: Any
    ) -> Verdict:
        """Compare a temperature-0 completion with the reference, step by step.

        Args:
            prompt, tokens: token ids.
            thinks: per generated token, whether it was sampled in the think phase.
            led: arguments of `led_reference`; temperature is 1.
        """
        logits, streams = self.states([*prompt, *tokens])
        verdict = Verdict(differences=[])
        assert verdict.differences is not None
        for index, token in enumerate(tokens):
            at = len(prompt) + index - 1
            verdict.steps += 1
            if thinks[index]:
                best, second, values = self._led_choices(logits[at], streams[at], **led)
            else:
                top = logits[at].double().softmax(0).topk(2)
                best, second = int(top.indices[0]), int(top.indices[1])
                values = (float(top.values[0]), float(top.values[1]))
            if token == best:
                continue
            if values[0] - values[1] < NEAR_TIE * values[0] and (second is None or token == second):
                verdict.near_ties += 1
                continue
            verdict.differences.append(f"step {index}: server {token}, oracle {best} {led}")
        return verdict

    def _led_choices(
        self, logits: torch.Tensor, streams: torch.Tensor, **led: Any
    ) -> tuple[int, int | None, tuple[float, float]]:
        """Best token, the runner-up (None: not one token), and the two values that decided."""
        ref = self.step(logits, streams, temperature=1.0, greedy=True, **led)
        explore = ref.explore_probability > 0.5
        best = ref.greedy_token(explore)
        # The three decisions that rounding could flip: the gate, the layer, the candidate.
        if abs(ref.explore_probability - 0.5) < NEAR_TIE:
            return best, None, (0.5, 0.5)
        if explore and len(ref.entropies) > 1:
            entropies = sorted(ref.entropies, reverse=True)
            if entropies[0] - entropies[1] < NEAR_TIE * entropies[0]:
                return best, None, (1.0, 1.0)
        probs = ref.explore_probs if explore else ref.exploit_probs
        if len(probs) == 1:
            return best, None, (1.0, 0.0)
        top = probs.topk(2)
        second = int(ref.candidate_ids[top.indices[1]])
        return best, second, (float(top.values[0]), float(top.values[1]))
