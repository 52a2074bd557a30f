"""What goes into and comes out of one LED step: plain records of tensors, no behaviour.

Results of the Triton step lie in memory kept for them: its next call, in the same order of the
stream, overwrites them. Whoever reads them later copies them first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

# [M, H] -> [M, H], the model's final norm.
FinalNorm = Callable[[Tensor], Tensor]
# [M, n] fp32 -> [ranks, M, n] in rank order.
AllGather = Callable[[Tensor], Tensor]


class CannotServe(Exception):
    """A compiled step cannot be had on this server; the message is one clause that says why."""


class Gate(IntEnum):
    """How a row decides between exploiting and exploring (docs/method.md#gate)."""

    CONFIDENCE = 0
    ALWAYS = 1
    NEVER = 2
    ENTROPY = 3
    RATE = 4


@dataclass(frozen=True)
class LmHeadShard:
    """This rank's part of the LM head.

    Logits are z = h W^T, then z * logit_scale, then softcap * tanh(z / softcap): SGLang's order.

    Attributes:
        weight: [rows >= valid, H], any float dtype; None when `project` is given.
        vocab_start: vocabulary id of the first column of this shard.
        valid: columns of this shard that are real vocabulary; padded ones beyond are never read.
        logit_scale, softcap: None where the model has none.
        project: [M, H] -> [M, >= valid] logits before scale and softcap, for heads that have no
            plain weight (quantised, LoRA). It sees row chunks, as many as there are rows to
            project, so it must not communicate with other ranks.
    """

    weight: Tensor | None
    vocab_start: int
    valid: int
    logit_scale: float | None = None
    softcap: float | None = None
    project: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        assert (self.weight is None) != (self.project is None), (
            "LmHeadShard needs exactly one of weight and project"
        )
        assert self.weight is None or self.weight.shape[0] >= self.valid, (
            f"weight has {self.weight.shape[0]} rows, fewer than the {self.valid} valid columns"
        )


@dataclass(frozen=True)
class LedRows:
    """What each request of the batch asked for; every field is [B], on the device."""

    temperature: Tensor  # f32, > 0 (greedy rows: 1)
    greedy: Tensor  # bool
    depth: Tensor  # int64, 1 .. LedLimits.depth
    candidates: Tensor  # int64, 1 .. LedLimits.candidates
    candidate_top_p: Tensor  # f32, (0, 1]
    floor: Tensor  # f32, >= 0
    final_norm: Tensor  # bool
    normalize_layers: Tensor  # bool
    release_layers: Tensor  # bool: h^{L-2}.. instead of h^{L-1}..
    gate: Tensor  # int64, a Gate
    gate_value: Tensor  # f32: nats for ENTROPY, a probability for RATE
    random_gate: Tensor  # bool: a greedy row still draws its gate (preset `release`)
    owns: Tensor  # bool: LED picks this row's token (`decide`: while it thinks, or random_gate)
    thinks: Tensor  # bool: only such rows may explore (`decide`: and those in the think phase)
    projects: Tensor  # bool: project the latents even when exploiting (log q, trace)


@dataclass(frozen=True)
class LedLimits:
    """Batch-wide sizes the host knows without asking the device; they fix every shape.

    From `behaviour` on, what no row of the batch holds, so that plain torch need not compute it;
    the kernels always do.
    """

    candidates: int  # the largest of LedRows.candidates
    depth: int  # the largest of LedRows.depth
    final_norm: bool  # any of LedRows.final_norm
    entropy: bool  # H(p^L) wanted: needed for any row with Gate.ENTROPY
    behaviour: bool = True  # q wanted; else it counts as not known
    greedy: bool = True  # any of LedRows.greedy
    nucleus: bool = True  # any LedRows.candidate_top_p below 1
    floor: bool = True  # any LedRows.floor above 0
    normalize_layers: bool = True  # any of LedRows.normalize_layers
    gates: frozenset[Gate] = frozenset(Gate)  # all of LedRows.gate that own their token


@dataclass(frozen=True)
class LaunchLimits:
    """The largest step that requests may ask of a server, and its types: what is prepared for.

    Attributes:
        batch: most rows of a step.
        candidates, depth: the largest of any request.
        vocab: columns of the final logits, all ranks together.
        captured: C of the latents [B, C, H].
        latents_dtype: of the latents.
        logits_dtypes: those the final logits may have.
    """

    batch: int
    candidates: int
    depth: int
    vocab: int
    captured: int
    latents_dtype: torch.dtype
    logits_dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)

    @property
    def layers(self) -> int:
        """Latent layers of the deepest request."""
        return self.depth - 1

    @property
    def slots(self) -> int:
        """Candidates of the widest step: no more than there is vocabulary."""
        return min(self.candidates, self.vocab)


@dataclass(frozen=True)
class FinalPosterior:
    """The final layer's posterior; K = LedLimits.candidates, at most V.

    See docs/method.md#final-posterior and docs/method.md#candidates.
    """

    ids: Tensor  # [B, K] int64, descending final logit, ties to the lowest id
    logprobs: Tensor  # [B, K] f32, log p^L(x_i) over all of V; -inf: this slot is no candidate
    p1: Tensor  # [B] f32, max_v p^L(v); 1 if every logit is -inf
    entropy: Tensor  # [B] f32, H(p^L) in nats if LedLimits.entropy, else zeros


@dataclass(frozen=True)
class NoiseStream:
    """Noise of rows without a seed: a counter on the device, which every step moves on.

    Equal streams that have made equally many steps give equal noise.
    """

    seed: Tensor  # [1] int64
    step: Tensor  # [1] int64

    @classmethod
    def start(cls, seed: int, device: torch.device | str) -> NoiseStream:
        """A stream at its first step.

        Args:
            seed: any integer; the low 64 bits count.
            device: where the steps run.
        """
        seed = (seed + 2**63) % 2**64 - 2**63
        return cls(
            torch.tensor([seed], dtype=torch.int64, device=device),
            torch.zeros(1, dtype=torch.int64, device=device),
        )


@dataclass(frozen=True)
class StepNoise:
    """The randomness of one step (docs/method.md#randomness)."""

    gate: Tensor  # [B] float64, uniform in [0, 1)
    pick: Tensor  # [B, K] float64, Gumbel(0, 1)


@dataclass(frozen=True)
class Draws:
    """Where the randomness of a step comes from, see `Step.draw_noise`."""

    stream: NoiseStream
    seeds: Tensor  # [B] int64
    has_seed: Tensor  # [B] bool
    positions: Tensor  # [B] int64


@dataclass(frozen=True)
class LedResult:
    """What one step decided, and why. D = LedLimits.depth."""

    token_ids: Tensor  # [B] int64; a valid id, but meaningless, where the row is not owned
    explored: Tensor  # [B] bool
    explore_probability: Tensor  # [B] float64, what the gate's draw was held against; 0 where the
    # row may not explore, and 0 or 1 where it takes its likelier side
    depth: Tensor  # [B] int64, L - l* + 1: 1 is the final layer; 1 for exploit
    p1: Tensor  # [B] f32
    entropy: Tensor  # [B] f32
    candidate_ids: Tensor  # [B, K] int64
    layer_probs: Tensor  # [B, D, K] f32, p^l(x_i) after floor and normalisation, 0 = final layer;
    # zeros for latent layers not projected and for slots that are no candidates
    behaviour_probs: Tensor  # [B, K] f32, q over candidates; zeros where q is not known because
    # a row that could have explored did not and was not projected
    behaviour_logprob: Tensor  # [B] f32, log q(token); -inf where q is not known
    projected_rows: int | None  # latent rows sent through the LM head; None if only the GPU knows
    gate_draw: Tensor | None = None  # [B] float64, what the gate drew; set by who drew the noise


# Columns of `Decided.summary`.
SUMMARY = ("is_led", "thinks", "explored", "depth", "p1", "phase", "behaviour_logprob")


@dataclass(frozen=True)
class Decided:
    """A whole step: which tokens are LED's, and what the host wants to know of it.

    Attributes:
        result: the numbers behind it, with `gate_draw`.
        owned: [B] bool, rows whose token LED picked.
        summary: [B, 7] f32 as `SUMMARY` says, in memory of its own: one copy to the host.
    """

    result: LedResult
    owned: Tensor
    summary: Tensor
