"""Independent oracle: Hugging Face transformers' hidden states and the float64 reference.

Shares no code with the server's path: another model implementation, another LED implementation.
Teacher-forced on the server's own tokens, so one forward gives every step of a completion.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from led_sglang.kernels import LedReference, led_reference

# What a request does to the final logits: (logits [V] f64, generated tokens so far) -> logits.
Adjust = Callable[[torch.Tensor, Sequence[int]], torch.Tensor]

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
        vision = hasattr(AutoConfig.from_pretrained(path), "vision_config")
        kind = AutoModelForImageTextToText if vision else AutoModelForCausalLM
        self.model: Any = kind.from_pretrained(path, dtype=torch.float32).eval()
        self.layers: int = self.model.config.get_text_config().num_hidden_layers
        stack = self.model.get_decoder()
        names = ("norm", "norm_f", "embedding_norm")
        self.norm = next(getattr(stack, name) for name in names if hasattr(stack, name))
        self.head = self.model.get_output_embeddings().weight.detach()
        # Settings that change no token of a prompt's answer share its forward.
        self._states = lru_cache(maxsize=64)(self._forward)

    def states(self, ids: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Final logits [T, V] and residual streams [T, L-1, H], index 0 = h^{L-1}.

        Transformers' `hidden_states[l]` is h^l for l < L; its last entry is already normed.
        """
        return self._states(tuple(ids))

    @torch.no_grad()
    def _forward(self, ids: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        out = self.model(torch.tensor([ids]), output_hidden_states=True)
        streams = torch.stack(out.hidden_states[1 : self.layers], dim=1)[0]
        return out.logits[0], streams.transpose(0, 1).flip(1)

    @torch.no_grad()
    def all_streams(self, ids: Sequence[int]) -> torch.Tensor:
        """h^0 (the embeddings) .. h^{L-1}: [T, L, H]."""
        out = self.model(torch.tensor([list(ids)]), output_hidden_states=True)
        return torch.stack(out.hidden_states[: self.layers], dim=2)[0]

    def step(self, logits: torch.Tensor, streams: torch.Tensor, **led: Any) -> LedReference:
        """The reference for one position, see `led_reference`."""
        norm = self._norm if led.pop("final_norm", False) else None
        return led_reference(logits, streams, self.head, norm=norm, **led)

    def _norm(self, hidden: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            normed: torch.Tensor = self.norm(hidden.float()).double()
        return normed

    def check_greedy(
        self,
        prompt: Sequence[int],
        tokens: Sequence[int],
        thinks: Sequence[bool],
        adjust: Adjust | None = None,
        **led: Any,
    ) -> Verdict:
        """Compare a temperature-0 completion with the reference, step by step.

        Args:
            prompt, tokens: token ids.
            thinks: per generated token, whether it was sampled in the think phase.
            adjust: bias, penalties or masks of the request.
            led: arguments of `led_reference`; temperature is 1.
        """
        logits, streams = self.states([*prompt, *tokens])
        if led.get("final_norm"):  # row by row, so once for all steps
            streams = self._norm(streams)
        options = led | {"final_norm": False}
        verdict = Verdict(differences=[])
        assert verdict.differences is not None
        for index, token in enumerate(tokens):
            at = len(prompt) + index - 1
            verdict.steps += 1
            final = logits[at].double()
            if adjust is not None:
                final = adjust(final, tokens[:index])
            if thinks[index]:
                best, allowed = self._led_choices(final, streams[at], **options)
            else:
                posterior = final.softmax(0)
                best, allowed = int(posterior.argmax()), _near_best(posterior)
            if token == best:
                continue
            if token in allowed:
                verdict.near_ties += 1
                continue
            verdict.differences.append(f"step {index}: server {token}, oracle {best} {led}")
        return verdict

    def _led_choices(
        self, logits: torch.Tensor, streams: torch.Tensor, **led: Any
    ) -> tuple[int, set[int]]:
        """The best token, and every token that a near tie of a decision would make the best.

        Rounding could flip four decisions: the last candidate, the gate, the layer, the token.
        """
        best, allowed = self._decide(logits, streams, **led)
        (last, next_), (i, j) = (t[-2:].tolist() for t in logits.topk(led["candidates"] + 1))
        if last - next_ < NEAR_TIE:  # of log-probabilities: relative, for probabilities
            exchanged = logits.clone()
            exchanged[i], exchanged[j] = next_, last
            allowed |= self._decide(exchanged, streams, **led)[1]
        return best, allowed

    def _decide(
        self, logits: torch.Tensor, streams: torch.Tensor, **led: Any
    ) -> tuple[int, set[int]]:
        ref = self.step(logits, streams, temperature=1.0, greedy=True, **led)
        explore = ref.explore_probability > 0.5
        sides = {explore}
        if abs(ref.explore_probability - 0.5) < NEAR_TIE * 0.5:
            sides = {True, False}
        drawn = [ref.exploit_probs] if False in sides else []
        if True in sides:
            layers = _near_best(torch.tensor(ref.entropies, dtype=torch.float64))
            drawn += [ref.cumulative[layer] for layer in layers]
        allowed = {ref.candidate_ids[i] for probs in drawn for i in _near_best(probs)}
        return ref.greedy_token(explore), allowed


def _near_best(values: torch.Tensor) -> set[int]:
    """Indices of all values that nearly tie with the largest."""
    return set((values >= values.max() * (1.0 - NEAR_TIE)).nonzero()[:, 0].tolist())
