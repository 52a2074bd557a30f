"""The LED step in Triton kernels: only the rows that explore are projected, and only the device
knows how many they are.

Nothing here asks the device for a value, launch shapes depend on the batch's size and limits alone,
and all memory, results included, is allocated once: a step overwrites the results of the one
before. One stream at a time may run steps.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from ..eager import EagerStep
from ..eager.step import refuse_what_is_missing
from ..phase import ThinkPhase
from ..types import (
    SUMMARY,
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
from .combine import Combine
from .gate import GateRows
from .gather import GatherLatents
from .latent_lse import LatentLse
from .launch import Arguments, current_stream
from .noise import NoiseWorkspace, draw_noise
from .partials import LatentPartials
from .posterior import Posterior, PosteriorWorkspace
from .prewarm import launches
from .settle import Settle
from .support import unsupported_reason
from .tiles import chip_of
from .workspace import StepWorkspace

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What the launches of a batch share from step to step: where results lie, and arguments."""

    rows: LedRows
    limits: LedLimits
    final: FinalPosterior
    result: LedResult
    sent: Tensor  # [B * layers, K + 2] f32, what ranks exchange
    posterior: tuple[Arguments, Arguments]
    gate: Arguments
    gather: Arguments
    partials: Arguments
    combine: Arguments
    settle: Arguments


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
        self.chip = chip_of(device)
        self.posterior_workspace = PosteriorWorkspace(batch, slots, limits.vocab, device)
        self.noise_workspace = NoiseWorkspace(batch, slots, device)
        self.workspace = StepWorkspace(batch, limits.layers, slots, weight, head.valid)
        self.projected: Tensor | None = self.workspace.live_total
        # The launches, in the order of a step.
        self.posterior = Posterior(limits, self.posterior_workspace)
        self.gate = GateRows(self.workspace)
        self.gather = GatherLatents(self.workspace, self.chip, final_norm)
        self.latent_lse = LatentLse(head, self.workspace, self.chip)
        self.partials = LatentPartials(head, self.workspace, self.chip)
        self.combine = Combine(self.workspace)
        self.settled = Settle(self.workspace)
        self._plan: Plan | None = None  # of the batch that `decide` saw last

    def prewarm(self) -> None:
        """Compile every kernel that a step within the limits may launch, and bind it.

        Raises:
            CannotServe: one did not compile, which a RuntimeWarning says too.
        """
        weight = self._head.weight
        assert weight is not None
        for kernel, launch in launches(self, self._head, self._limits):
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

    def plan(
        self,
        rows: LedRows,
        limits: LedLimits,
        final: FinalPosterior | None = None,
        noise: StepNoise | None = None,
    ) -> Plan:
        """The arguments of a batch's launches.

        Args:
            rows, limits: of the batch.
            final, noise: where they lie; None: in the workspaces.
        """
        batch = len(rows.temperature)
        candidates = min(limits.candidates, self._limits.vocab)
        layers = limits.depth - 1
        final = final or self.posterior_workspace.of(batch, candidates)
        noise = noise or self.noise_workspace.of(batch, candidates)
        return Plan(
            rows=rows,
            limits=limits,
            final=final,
            result=self.combine.result(final, noise, layers),
            sent=self.partials.result(batch, layers, candidates),
            posterior=self.posterior.staying(final, noise, rows),
            gate=self.gate.staying(final, noise, rows, layers),
            gather=self.gather.staying(rows, layers),
            partials=self.partials.staying(final, rows, layers),
            combine=self.combine.staying(final, noise, rows, layers),
            settle=self.settled.staying(batch),
        )

    def final_posterior(self, logits: Tensor, rows: LedRows, limits: LedLimits) -> FinalPosterior:
        """See `Step.final_posterior`; the result lies in the workspace."""
        if self._falls_back(self._posterior_misfit(logits, limits)):
            return self._eager.final_posterior(logits, rows, limits)
        plan = self.plan(rows, limits)
        self.posterior(self._stream(), logits, limits, None, plan.posterior)
        return plan.final

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
        workspace = self.noise_workspace
        return draw_noise(stream, seeds, has_seed, positions, candidate_ids, workspace)

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
        batch, candidates = final.ids.shape
        if self._falls_back(self._step_misfit(batch, candidates, latents, limits)):
            return self._eager.led_step(final, latents, rows, limits, noise)
        plan = self.plan(rows, limits, final, noise)
        self._after_posterior(self._stream(), plan, latents, None, None, self.workspace.summary)
        return plan.result

    def decide(
        self,
        logits: Tensor,
        latents: Tensor,
        rows: LedRows,
        limits: LedLimits,
        draws: Draws,
        phase: ThinkPhase | None,
    ) -> Decided:
        """See `Step.decide`; all but the summary lies in the workspaces."""
        refuse_what_is_missing(latents, limits, self._head, self._final_norm)
        batch, candidates = logits.shape[0], min(limits.candidates, logits.shape[1])
        misfit = self._posterior_misfit(logits, limits)
        misfit = misfit or self._step_misfit(batch, candidates, latents, limits)
        if self._falls_back(misfit):
            return self._eager.decide(logits, latents, rows, limits, draws, phase)
        plan, stream = self._plan, self._stream()
        if plan is None or plan.rows is not rows or plan.limits is not limits:
            plan = self._plan = self.plan(rows, limits)
        self.posterior(stream, logits, limits, draws, plan.posterior)
        # In memory of its own: the host copies it while the next step already runs.
        summary = logits.new_empty(batch, len(SUMMARY), dtype=torch.float32)
        self._after_posterior(stream, plan, latents, draws.stream, phase, summary)
        return Decided(plan.result, self.workspace.owned[:batch], summary)

    def settle(
        self,
        token_ids: Tensor,
        decided: Decided,
        phase: ThinkPhase | None,
        *,
        takes: bool = True,
    ) -> None:
        """See `Step.settle`."""
        plan = self._plan
        if plan is None or decided.result is not plan.result:  # it fell back
            self._eager.settle(token_ids, decided, phase, takes=takes)
        elif len(token_ids):
            self.settled(self._stream(), token_ids, phase, plan.settle, takes=takes)

    def _after_posterior(
        self,
        stream: object,
        plan: Plan,
        latents: Tensor,
        moves: NoiseStream | None,
        phase: ThinkPhase | None,
        summary: Tensor,
    ) -> None:
        """The launches from the gate on."""
        batch, candidates = plan.final.ids.shape
        layers = plan.limits.depth - 1
        if batch == 0:
            return
        self.gate(stream, moves, phase, plan.gate)
        for first in self.workspace.windows(batch, layers):
            at_most = min(self.workspace.window, batch * layers - first)
            self.gather(stream, latents, first, at_most, plan.gather)
            if plan.limits.final_norm:
                self.gather.normalise(plan.rows, layers, first, at_most)
            self.latent_lse(stream, first, at_most)
            self.partials(stream, first, at_most, candidates, plan.partials)
        gathered = plan.sent[None]
        if self._all_gather is not None and layers > 0:
            gathered = self._all_gather(plan.sent)
        self.combine(stream, gathered, summary, batch, plan.combine)

    def _stream(self) -> object:
        return current_stream(self.chip.index)

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

    def _step_misfit(
        self, batch: int, candidates: int, latents: Tensor, limits: LedLimits
    ) -> str | None:
        if _layout(self._head) != self._layout:
            return "the weight of the LM head has been replaced by one of another layout"
        if limits.depth > 1 and latents.dtype != self._limits.latents_dtype:
            return f"latents are {latents.dtype}, not {self._limits.latents_dtype}"
        if latents.stride(2) != 1:
            return "the rows of the latents are not contiguous"
        return self._size_misfit(batch, candidates, limits.depth)


def _layout(head: LmHeadShard) -> tuple[object, ...]:
    """What the kernels are compiled for; not the address itself, since weights are updated."""
    weight = head.weight
    assert weight is not None
    aligned = weight.data_ptr() % 16 == 0
    return (weight.shape[1], weight.stride(), weight.dtype, weight.device, aligned)
