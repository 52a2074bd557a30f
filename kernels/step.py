"""Who computes a LED step: chosen once at launch, and held by whoever runs steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from .eager import EagerStep
from .phase import ThinkPhase
from .triton import TritonStep, device_reason
from .types import (
    AllGather,
    CannotServe,
    Decided,
    Draws,
    FinalNorm,
    FinalPosterior,
    LaunchLimits,
    LedLimits,
    LedResult,
    LedRows,
    LmHeadShard,
    NoiseStream,
    StepNoise,
)

# Why torch serves where the cause is not this rank's.
ANOTHER_RANK = "another rank cannot run the kernels, and all ranks must take the same path"


class Step(Protocol):
    """One implementation of the LED step, bound to an LM head and all it needs.

    A step is `decide`, then `settle` once the engine has sampled. What `decide` computes can be had
    in parts, to look at each: `final_posterior`, `draw_noise` for the candidates it names,
    `led_step`.

    Attributes:
        name: `triton`, `cpu` or `torch`.
        reason: why plain torch serves where a compiled step was wanted, for all steps or, under the
            name of a compiled step, for those that do not fit it; None where nothing falls back.
        projected: [1] int64 on the device, latent rows sent through the LM head that no result
            has told of; None where every result tells.
    """

    name: str
    reason: str | None
    projected: Tensor | None

    def final_posterior(self, logits: Tensor, rows: LedRows, limits: LedLimits) -> FinalPosterior:
        """Candidates and statistics of p^L (docs/method.md#final-posterior).

        Args:
            logits: [B, V] fp32, bf16 or fp16, with bias, penalties and grammar already applied; not
                modified. Ties go to the lowest id.
            rows, limits: of the batch.

        Returns:
            Candidates beyond a row's own, and beyond its nucleus, have log-probability -inf.
        """

    def draw_noise(
        self,
        stream: NoiseStream,
        seeds: Tensor,
        has_seed: Tensor,
        positions: Tensor,
        candidate_ids: Tensor,
    ) -> StepNoise:
        """The randomness of one step (docs/method.md#randomness); the stream moves on by one.

        Args:
            stream: of the rows without a seed.
            seeds, positions: [B] int64.
            has_seed: [B] bool.
            candidate_ids: [B, K] int64 vocabulary ids.
        """

    def led_step(
        self,
        final: FinalPosterior,
        latents: Tensor,
        rows: LedRows,
        limits: LedLimits,
        noise: StepNoise,
    ) -> LedResult:
        """From latent posteriors to a token: docs/method.md#latent-posteriors to
        docs/method.md#token.

        Args:
            final: from `final_posterior` with the same rows and limits, over the whole vocabulary.
            latents: [B, C, H], deepest first as SGLang captures them: [:, -1] is h^{L-1}, [:, -2]
                h^{L-2}; C >= depth - 1, and >= depth for rows with release_layers.
            rows, limits: of the batch.
            noise: gate [B], pick [B, K], equal on every rank.

        Raises:
            ValueError: latents are too few for limits.depth, or a row wants the final norm and none
                was given.
        """

    def decide(
        self,
        logits: Tensor,
        latents: Tensor,
        rows: LedRows,
        limits: LedLimits,
        draws: Draws,
        phase: ThinkPhase | None,
    ) -> Decided:
        """The whole step, from the engine's logits to LED's tokens.

        Args:
            logits, latents, limits: see `final_posterior` and `led_step`.
            rows: owns and thinks say what holds whatever the phase is. The same object as in the
                step before, if the batch is, spares an implementation its preparation.
            draws: of this step's noise.
            phase: the rows' think phase: a row thinks if its phase or `rows.thinks` says so, and
                LED picks its token then, or always with random_gate; None: rows as they are.
        """

    def settle(
        self,
        token_ids: Tensor,
        decided: Decided,
        phase: ThinkPhase | None,
        *,
        takes: bool = True,
    ) -> None:
        """Write LED's tokens over the engine's, and move the think phase of every row on.

        Args:
            token_ids: [B] int32 or int64, the engine's; changed in place.
            decided: from `decide`, with no other step since.
            phase: as in `decide`.
            takes: False: the tokens stay, as ranks have settled them; the phase moves on from where
                it was before the step.
        """


def prepare(
    head: LmHeadShard,
    limits: LaunchLimits,
    *,
    device: torch.device,
    final_norm: FinalNorm | None = None,
    all_gather: AllGather | None = None,
    on_every_rank: Callable[[bool], bool] | None = None,
) -> Step:
    """The step for this device: compiled, its memory allocated, once at launch.

    Triton's kernels serve a GPU (and, in Triton's interpreter, a CPU), Numba's code a CPU. What
    cannot be compiled is served by plain torch: no request ever meets a compiler, or its error.

    Args:
        head: this rank's shard of the LM head.
        limits: the largest step a request may ask for.
        device: where the steps run.
        final_norm: [M, H] -> [M, H], the model's; needed if a row may ask for it.
        all_gather: [M, K + 2] fp32 -> [R, M, K + 2] in rank order. If given, every step of
            depth > 1 calls it exactly once, with M = B * (depth - 1), whatever the gates say.
        on_every_rank: whether a flag is true on every rank, called exactly once; None without other
            ranks. All ranks take the same step: they round differently.
    """
    step: Step | None = None
    reason = ANOTHER_RANK
    try:
        if device.type != "cpu" or device_reason(device) is None:
            kernels = TritonStep(head, limits, final_norm=final_norm, all_gather=all_gather)
            kernels.prewarm()
            step = kernels
        else:
            from .cpu import CpuStep  # Numba is needed here alone

            step = CpuStep(head, final_norm=final_norm, all_gather=all_gather)
    except CannotServe as refusal:
        reason = str(refusal)
    if on_every_rank is not None and not on_every_rank(step is not None):
        step = None
    if step is None:
        step = EagerStep(head, final_norm=final_norm, all_gather=all_gather, reason=reason)
    return step
