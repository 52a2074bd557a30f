"""The LED step in Triton kernels: only the rows that explore are projected, and only the device
knows how many they are.

Nothing here asks the device for a value, launch shapes depend on the batch's size and limits alone,
and all memory, results included, is allocated once: a step overwrites the results of the one
before. One stream at a time may run steps.
"""

from __future__ import annotations

import logging
import warnings

import torch
from torch import Tensor

from ..eager import EagerStep
from ..eager.step import refuse_what_is_missing
from ..types import (
    AllGather,
    CannotServe,
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
from . import noise as noise_kernels
from . import posterior as posterior_kernels
from .combine import combine
from .gate import gate_rows
from .gather import gather_latents
from .latent_lse import latent_lse
from .noise import NoiseWorkspace
from .partials import latent_partials
from .posterior import PosteriorWorkspace
from .prewarm import launches
from .support import unsupported_reason
from .workspace import StepWorkspace

logger = logging.getLogger(__name__)


class TritonStep:
    """`Step` in Triton kernels, for steps up to the limits it is made for.

    A step beyond them runs in plain torch; `reason` then says why, from the first one on.

    Args:
        head: this rank's shard of the LM head.
        limits: the largest step.
        final_norm, all_gather: see `prepare`.

    Raises:
        CannotServe: the kernels do not hold these sizes or types, or not on this device.
    """

    name = "triton"

    def __init__(
        self,
        head: LmHeadShard,
        limits: LaunchLimits,
        *,
        final_norm: FinalNorm | None = None,
        all_gather: AllGather | None = None,
    ) -> None:
        weight = head.weight
        if weight is None:
            raise CannotServe(
                "the LM head has no plain weight (quantised or LoRA): torch calls the head itself"
            )
        refusal = unsupported_reason(weight, limits.latents_dtype, limits.slots, limits.depth)
        if refusal is not None:
            raise CannotServe(refusal)
        self.reason: str | None = None
        self._head = head
        self._limits = limits
        self._layout = _layout(head)
        self._final_norm = final_norm
        self._all_gather = all_gather
        self._eager = EagerStep(head, final_norm=final_norm, all_gather=all_gather)
        batch, slots, device = limits.batch, limits.slots, weight.device
        self.posterior_workspace = PosteriorWorkspace(batch, slots, limits.vocab, device)
        self.noise_workspace = NoiseWorkspace(batch, slots, device)
        self.workspace = StepWorkspace(batch, limits.layers, slots, weight, head.valid)
        self.projected: Tensor | None = self.workspace.live_total

    def prewarm(self) -> None:
        """Compile every kernel that a step within the limits may launch.

        Raises:
            CannotServe: one did not compile, which a RuntimeWarning says too.
        """
        weight = self._head.weight
        assert weight is not None
        for kernel, launch in launches(
            self._head, self._limits, self.posterior_workspace, self.noise_workspace, self.workspace
        ):
            try:
                launch()
            except Exception as error:  # compilers, drivers and allocators each raise their own
                summary = (str(error).splitlines() or [""])[0]
                problem = f"{type(error).__name__}: {summary}"
                reason = f"kernel {kernel} failed on {weight.device}: {problem}"
                warnings.warn(f"{reason}; LED steps run in torch", RuntimeWarning, stacklevel=2)
                raise CannotServe(reason) from error
        # What was launched here served no request.
        self.workspace.live_total.zero_()
        if weight.is_cuda:
            torch.cuda.synchronize(weight.device)

    def final_posterior(self, logits: Tensor, rows: LedRows, limits: LedLimits) -> FinalPosterior:
        """See `Step.final_posterior`; the result lies in the workspace."""
        if self._falls_back(self._posterior_misfit(logits, limits)):
            return self._eager.final_posterior(logits, rows, limits)
        return posterior_kernels.final_posterior(logits, rows, limits, self.posterior_workspace)

    def draw_noise(
        self,
        stream: NoiseStream,
        seeds: Tensor,
        has_seed: Tensor,
        positions: Tensor,
        candidate_ids: Tensor,
    ) -> StepNoise:
        """See `Step.draw_noise`; the result lies in the workspace."""
        batch, candidates = candidate_ids.shape
        if self._falls_back(self._size_misfit(batch, candidates, 1)):
            return self._eager.draw_noise(stream, seeds, has_seed, positions, candidate_ids)
        return noise_kernels.draw_noise(
            stream, seeds, has_seed, positions, candidate_ids, self.noise_workspace
        )

    def led_step(
        self,
        final: FinalPosterior,
        latents: Tensor,
        rows: LedRows,
        limits: LedLimits,
        noise: StepNoise,
    ) -> LedResult:
        """See `Step.led_step`; the result lies in the workspace, its `projected_rows` is None."""
        refuse_what_is_missing(latents, limits, self._head, self._final_norm)
        if self._falls_back(self._step_misfit(final, latents, limits)):
            return self._eager.led_step(final, latents, rows, limits, noise)
        head, workspace = self._head, self.workspace
        batch, candidates = final.ids.shape
        layers = limits.depth - 1
        explored = gate_rows(final, rows, noise, layers, workspace)
        norm = self._final_norm if limits.final_norm else None
        partials = workspace.partials[:0].view(0, candidates + 2)
        for first in workspace.windows(batch, layers):
            gather_latents(latents, rows, layers, first, workspace, norm)
            at_most = min(workspace.window, batch * layers - first)
            latent_lse(workspace, head, first=first, at_most=at_most)
            partials = latent_partials(final.ids, rows, layers, first, head, workspace)
        gathered = partials[None]
        if self._all_gather is not None and layers > 0:
            gathered = self._all_gather(partials)
        return combine(gathered, final, rows, noise, explored, layers, workspace)

    def _falls_back(self, misfit: str | None) -> bool:
        """Whether a step does not fit; the first time it is logged."""
        if misfit is not None and self.reason is None:
            self.reason = f"{misfit}: such steps run in torch"
            logger.warning("%s.", self.reason)
        return misfit is not None

    def _size_misfit(self, batch: int, candidates: int, depth: int) -> str | None:
        """What of a step is larger than what was prepared, or None."""
        most = self._limits
        if batch <= most.batch and candidates <= most.slots and depth <= most.depth:
            return None
        return (
            f"a step has {batch} rows, {candidates} candidates and depth {depth}; the kernels are "
            f"prepared for {most.batch}, {most.slots} and {most.depth}"
        )

    def _posterior_misfit(self, logits: Tensor, limits: LedLimits) -> str | None:
        batch, vocab = logits.shape
        if vocab != self._limits.vocab:
            return f"the final logits have {vocab} columns, not {self._limits.vocab}"
        if logits.dtype not in self._limits.logits_dtypes:
            return f"the final logits are {logits.dtype}"
        if logits.stride(1) != 1:
            return "the rows of the final logits are not contiguous"
        return self._size_misfit(batch, min(limits.candidates, vocab), 1)

    def _step_misfit(self, final: FinalPosterior, latents: Tensor, limits: LedLimits) -> str | None:
        if _layout(self._head) != self._layout:
            return "the weight of the LM head has been replaced by one of another layout"
        if limits.depth > 1 and latents.dtype != self._limits.latents_dtype:
            return f"latents are {latents.dtype}, not {self._limits.latents_dtype}"
        if latents.stride(2) != 1:
            return "the rows of the latents are not contiguous"
        batch, candidates = final.ids.shape
        return self._size_misfit(batch, candidates, limits.depth)


def _layout(head: LmHeadShard) -> tuple[object, ...]:
    """What the kernels are compiled for; not the address itself, since weights are updated."""
    weight = head.weight
    assert weight is not None
    aligned = weight.data_ptr() % 16 == 0
    return (weight.shape[1], weight.stride(), weight.dtype, weight.device, aligned)
