"""The sampling step: the engine samples the whole batch, methods replace the rows they own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from sglang.kernels.ops.sampling.renorm import top_p_renorm_prob
from sglang.srt.layers.logprob_processor import OutputLogprobProcessor
from sglang.srt.layers.sampler import SYNC_TOKEN_IDS_ACROSS_TP, Sampler
from sglang.srt.runtime_context import get_exec, get_parallel, get_platform
from torch import Tensor

from led_sglang.kernels import LmHeadShard, Step, ThinkPhase
from led_sglang.methods.base import LogitsChanger, LogitsContext, Picks, StepContext, TokenSampler
from led_sglang.methods.registry import METHODS
from led_sglang.methods.regular import SeededRows
from led_sglang.methods.rows import RowTable
from led_sglang.methods.soft_thinking.state import SoftState
from led_sglang.patches.batch_state import STEP_ATTRIBUTE, automaton_of, table_of
from led_sglang.patches.binding import Binding, bind
from led_sglang.patches.embedding import SoftInputs
from led_sglang.patches.first_streams import FirstStreams
from led_sglang.patches.hooks import hook
from led_sglang.patches.proven_capture import Report as CaptureReport
from led_sglang.patches.published import pair_role, settings_or_none
from led_sglang.patches.refusal import ending_with_a_sentence
from led_sglang.patches.sampling_mask import fill_sampling_mask
from led_sglang.patches.self_check import Report
from led_sglang.patches.statistics import StepStatistics, show_from_the_start
from led_sglang.phase import StepInputs


@dataclass
class _Step:
    """One call of the sampler, between its hooks."""

    inputs: StepInputs
    table: RowTable
    positions: Tensor
    logits_output: Any
    phase: ThinkPhase | None
    picks: list[Picks] = field(default_factory=list)
    taken_over: bool = False

    def take_over(self, token_ids: Tensor) -> None:
        """Write the methods' tokens over the engine's, in place, in the rows they own."""
        if self.taken_over:
            return
        # A pick that settles the step moves on all rows' phases: it comes last.
        for picks in sorted(self.picks, key=lambda picks: picks.settle is not None):
            if picks.settle is not None:
                picks.settle(token_ids, True)
            else:
                token_ids.copy_(torch.where(picks.owned, picks.token_ids, token_ids.long()))
        self.taken_over = True

    def finish(self, token_ids: Tensor, changed: bool) -> None:
        """Move the think phases on by the tokens, unless a pick has and they have not `changed`
        since."""
        settled = next((picks.settle for picks in self.picks if picks.settle is not None), None)
        if settled is None:
            if self.phase is not None:
                self.phase.finish(token_ids)
        elif changed:
            settled(token_ids, False)


class _OutputLogprobs(OutputLogprobProcessor):
    """Looks up the log-probabilities of the tokens LED picked in place of the engine's picks."""

    def __init__(self, sampler: LedSampler) -> None:
        self._sampler = sampler

    def compute_logprobs(
        self,
        logprobs: Tensor,
        top_logprobs_nums: list[int],
        token_ids_logprobs: list[list[int]],
        batch_next_token_ids: Tensor,
    ) -> Any:
        self._sampler.take_over(batch_next_token_ids)
        result = super().compute_logprobs(
            logprobs, top_logprobs_nums, token_ids_logprobs, batch_next_token_ids
        )
        result.token_logprobs = self._sampler.reported_logprobs(result.token_logprobs)
        return result


class LedSampler(Sampler):
    """SGLang's sampler with LED's step inside.

    A batch without LED rows takes exactly the engine's path. Otherwise the engine samples every row
    as always, from its own random stream, and LED's tokens replace those of the rows it owns before
    log-probabilities are looked up and ranks are synchronised.
    """

    _bound: Binding  # set by `bind`
    # The enabled methods at work, each with the samplers it serves; filled by `bind`.
    _samplers: list[tuple[frozenset[str], TokenSampler]]
    _changers: list[tuple[frozenset[str], LogitsChanger]]

    def __init__(self) -> None:
        super().__init__()
        settings = settings_or_none()
        assert settings is not None, "the sampler factory checks this"
        self.automaton = automaton_of(settings)
        self.soft_inputs: SoftInputs | None = None
        # What the truncation check found; None before it, and where nothing is captured.
        self.proof: CaptureReport | None = None
        self._settings = settings
        self._methods = [m for m in METHODS if set(m.samplers) & set(settings.enabled)]
        self._states: dict[str, Any] = {}
        self._samplers, self._changers = [], []
        self._step: _Step | None = None
        # Whether the captured layers are still to be looked at once.
        self._unseen = bool(settings.captured) and settings.self_check != "off"
        self._hands_over = pair_role() == "prefill"
        self._flat: tuple[Tensor, Tensor] | None = None
        self.output_logprob_processor = _OutputLogprobs(self)
        # The backend SGLang would have chosen; `led` itself means nothing to the built-in code.
        self._backend = _built_in_backend(self.enable_deterministic)
        self._top_p = top_p_renorm_prob if self._backend == "flashinfer" else None

    def bind(self, model_runner: Any) -> None:
        """Take what a step needs from the loaded model; called once, before the first request.

        Raises:
            LaunchRefused: the model lacks a part LED needs.
        """
        self._bound = bind(model_runner, self._settings, self.automaton)
        for method in self._methods:
            at_work = method.bind(self._bound.model, self._states[method.samplers[0]])
            if isinstance(at_work, TokenSampler):
                self._samplers.append((frozenset(method.samplers), at_work))
            else:
                self._changers.append((frozenset(method.samplers), at_work))
        show_from_the_start(self.step, self._settings.depth, self.checked)

    @property
    def step(self) -> Step:
        """Who computes LED's steps in this process."""
        return self._bound.model.step

    @property
    def head(self) -> LmHeadShard:
        """The LM head that LED reads."""
        return self._bound.model.head

    @property
    def checked(self) -> Report:
        """What the self-check found at launch."""
        return self._bound.checked

    def allocate(self, model_runner: Any) -> None:
        """Let the methods make what they keep by request slot; before graphs are captured.

        Raises:
            LaunchRefused: the model cannot be made to read the mixtures of a soft method.
        """
        slots = model_runner.req_to_token_pool.req_to_token.shape[0]
        for method in self._methods:
            state = method.allocate(slots, model_runner.device)
            self._states[method.samplers[0]] = state
            if isinstance(state, SoftState):
                self.soft_inputs = SoftInputs(model_runner.model, state)

    def change_logits(self, logits_output: Any, sampling_info: Any) -> None:
        """Let the methods that change logits do so, before penalties, grammar and temperature."""
        table = table_of(sampling_info)
        if table is None or not len(table.rows):
            return
        logits = logits_output.next_token_logits
        for samplers, method in self._changers:
            if samplers & table.samplers:
                captured = self._captured(logits_output, logits)
                method.change(LogitsContext(logits, captured, table))

    def forward(
        self,
        logits_output: Any,
        sampling_info: Any,
        return_logprob: bool,
        top_logprobs_nums: list[int],
        token_ids_logprobs: list[list[int]],
        positions: Tensor,
        *,
        logprob_logits: Tensor | None = None,
    ) -> Tensor:
        table = table_of(sampling_info)
        if table is not None and len(table.rows):
            inputs = getattr(sampling_info, STEP_ATTRIBUTE)
            tracker = self._bound.tracker
            phase = None if tracker is None else tracker.begin(inputs)
            self._step = _Step(inputs, table, positions, logits_output, phase)
        try:
            token_ids = super().forward(
                logits_output,
                sampling_info,
                return_logprob,
                top_logprobs_nums,
                token_ids_logprobs,
                positions,
                logprob_logits=logprob_logits,
            )
            step = self._step
            if step is not None:
                # What SGLang lets ranks agree on may not be what they sampled.
                agreed = SYNC_TOKEN_IDS_ACROSS_TP or bool(sampling_info.grammars)
                step.finish(token_ids, agreed)
            rows = sampling_info.sampling_mask_batch_indices
            for picks in step.picks if step is not None and rows is not None else ():
                if picks.behaviour is not None:
                    fill_sampling_mask(
                        logits_output.sampling_mask_output,
                        rows,
                        sampling_info.sampling_support_logprobs_capture_indices,
                        picks.owned,
                        picks.behaviour,
                    )
        finally:
            self._step = None
        return token_ids

    def _preprocess_logits(self, logits: Tensor, sampling_info: Any) -> Tensor:
        logits = super()._preprocess_logits(logits, sampling_info)
        # The engine divides and normalises in place from here on: LED reads the logits first.
        if self._step is not None:
            self._decide(self._step, logits, sampling_info)
        return logits

    def _decide(self, step: _Step, logits: Tensor, sampling_info: Any) -> None:
        table, soft = step.table, self.soft_inputs
        if soft is not None and step.inputs.initial is None:
            soft.check_applied()
        context = StepContext(
            logits=logits,
            latents=self._latents(step.logits_output, logits),
            positions=step.positions,
            slots=step.inputs.slots,
            temperature=self._temperatures(sampling_info.temperatures),
            phase=step.phase,
            table=table,
        )
        step.picks = [
            method.step(context) for samplers, method in self._samplers if samplers & table.samplers
        ]
        # Only the first rank talks to the detokenizer, but every one to a decode server.
        answers = get_parallel().attn_tp_rank == 0 or self._hands_over
        records = [p.record for p in step.picks if p.record and (answers or p.record.every_rank)]
        if self._unseen:
            self._unseen = False
            captured = self._captured(step.logits_output, logits)
            records.append(FirstStreams.of(captured, logits, self._settings.captured))
        if records:
            step.logits_output.auxiliary_device_output = StepStatistics(records, self.step)

    def _temperatures(self, column: Tensor) -> Tensor:
        """[B, 1] as [B]: the same object for the same column, by which steps know their batch."""
        if self._flat is None or self._flat[0] is not column:
            self._flat = column, column.view(-1)
        return self._flat[1]

    def _captured(self, logits_output: Any, logits: Tensor) -> Tensor:
        """[B, C, H], deepest layer first: a view of what SGLang captured.

        Raises:
            RuntimeError: that is something else.
        """
        rows, captured = logits.shape[0], len(self._settings.captured)
        if captured == 0:
            return logits.new_empty(rows, 0, 1)
        shape = (rows, captured, self._bound.hidden_size)
        hidden = logits_output.hidden_states
        got = None if hidden is None else tuple(hidden.shape)
        if got != (rows, shape[1] * shape[2]):
            raise RuntimeError(
                f"LED waits for {captured} captured layers of width {shape[2]} for each of {rows} "
                f"rows, and SGLang brings hidden states of shape {got}: the layers of "
                f"{self._settings.architecture} were not captured in this forward; start without "
                "LED (--sampler regular), or leave prefill graphs out "
                "(--disable-prefill-cuda-graph) if they are on"
            )
        return hidden.view(shape)

    def _latents(self, logits_output: Any, logits: Tensor) -> Tensor:
        """[B, latents, H]: LED's part of the captured layers, the last ones."""
        captured = self._captured(logits_output, logits)
        return captured[:, captured.shape[1] - len(self._settings.latent_layers) :]

    def _sample_from_probs(
        self, probs: Tensor, sampling_info: Any, positions: Tensor, simple_sampling_case: bool
    ) -> Any:
        with get_exec().kernel.override(sampling_backend=self._backend):
            token_ids, mask = super()._sample_from_probs(
                probs, sampling_info, positions, simple_sampling_case
            )
        step = self._step
        if step is None or self.enable_deterministic:
            return token_ids, mask
        seeded = step.table.once(SeededRows.of)
        if seeded is not None:
            token_ids = seeded.pick(probs, positions, token_ids, self._top_p)
            if mask is not None:  # the weight it has noted is of the engine's own pick
                mask = mask._replace(selected_weight=None)
        return token_ids, mask

    def take_over(self, token_ids: Tensor) -> None:
        """Write the methods' tokens over the engine's, in place, in the rows they own."""
        if self._step is not None:
            self._step.take_over(token_ids)

    def reported_logprobs(self, logprobs: Tensor) -> Tensor:
        """[B] log-probabilities of the tokens: log q where a row asked for it and LED drew."""
        for picks in self._step.picks if self._step is not None else ():
            if (behaviour := picks.behaviour) is not None:
                # Zero has no place in an answer: the least number stands for it, as the engine's.
                log_q = behaviour.logprobs.clamp(min=torch.finfo(torch.float32).min)
                logprobs = torch.where(picks.owned & behaviour.reported, log_q, logprobs)
        return logprobs

    def _sync_token_ids_across_tp(self, batch_next_token_ids: Tensor, sampling_info: Any) -> None:
        self.take_over(batch_next_token_ids)
        super()._sync_token_ids_across_tp(batch_next_token_ids, sampling_info)


def _built_in_backend(deterministic: bool) -> str:
    # SGLang's own rule; flashinfer ignores seeds, so deterministic inference takes pytorch.
    return "flashinfer" if get_platform().has_flashinfer and not deterministic else "pytorch"


@hook("model_executor.model_runner.ModelRunner.sample", "BEFORE")
def _change_logits(self: Any, logits_output: Any, forward_batch: Any) -> None:
    if isinstance(self.sampler, LedSampler):
        self.sampler.change_logits(logits_output, forward_batch.sampling_info)


@hook("model_executor.model_runner.ModelRunner.init_attention_backends", "AFTER")
def _before_graphs(result: Any, self: Any) -> None:
    if isinstance(self.sampler, LedSampler):
        with ending_with_a_sentence():
            self.sampler.allocate(self)


@hook("model_executor.model_runner.ModelRunner.prewarm_sampling", "AFTER")
def _bind(result: Any, self: Any) -> None:
    if isinstance(self.sampler, LedSampler):
        from led_sglang import patches

        with ending_with_a_sentence():
            patches.verify()
            self.sampler.bind(self)
