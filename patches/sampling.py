"""The sampling step: the engine samples the whole batch, methods replace the rows they own."""

from __future__ import annotations

from typing import Any

from sglang.kernels.ops.sampling.renorm import top_p_renorm_prob
from sglang.srt.layers.logprob_processor import OutputLogprobProcessor
from sglang.srt.layers.sampler import SYNC_TOKEN_IDS_ACROSS_TP, Sampler
from sglang.srt.runtime_context import get_exec, get_platform
from torch import Tensor

from led_sglang.methods.regular import SeededRows, TopP
from led_sglang.patches.batch_state import STEP_ATTRIBUTE, automaton_of, table_of
from led_sglang.patches.batch_step import BatchStep
from led_sglang.patches.hooks import hook
from led_sglang.patches.methods_at_work import MethodsAtWork, SameTemperatures
from led_sglang.patches.proven_capture import Report as CaptureReport
from led_sglang.patches.published import settings_or_none
from led_sglang.patches.refusal import ending_with_a_sentence
from led_sglang.patches.sampling_mask import fill_sampling_mask
from led_sglang.patches.stages import samples_here


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
        step = self._sampler.running
        if step is not None:
            step.take_over(batch_next_token_ids)
        result = super().compute_logprobs(
            logprobs, top_logprobs_nums, token_ids_logprobs, batch_next_token_ids
        )
        if step is not None:
            result.token_logprobs = step.reported_logprobs(result.token_logprobs)
        return result


class LedSampler(Sampler):
    """SGLang's sampler with LED's step inside.

    A batch without LED rows takes exactly the engine's path. Otherwise the engine samples every row
    as always, from its own random stream, and LED's tokens replace those of the rows it owns before
    log-probabilities are looked up and ranks are synchronised.

    Of several pipeline stages only the last one samples; the others know who does.
    """

    def __init__(self) -> None:
        super().__init__()
        settings = settings_or_none()
        assert settings is not None, "the sampler factory checks this"
        self.methods = MethodsAtWork(settings, automaton_of(settings))
        # What the truncation check found; None before it, and where nothing is captured.
        self.proof: CaptureReport | None = None
        # Between its hooks: the step that runs, and the forward it belongs to.
        self.running: BatchStep | None = None
        self._forward_output: Any = None
        self.temperatures = SameTemperatures()
        self.output_logprob_processor = _OutputLogprobs(self)
        # The backend SGLang would have chosen; `led` itself means nothing to the built-in code.
        self._backend = _built_in_backend(self.enable_deterministic)
        # The device's own kernel for nuclei, where it has one.
        self.top_p: TopP | None = top_p_renorm_prob if self._backend == "flashinfer" else None

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
            tracker = self.methods.bound.tracker
            phase = None if tracker is None else tracker.begin(inputs)
            self.running = BatchStep(inputs, table, positions, phase)
            self._forward_output = logits_output
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
            step = self.running
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
            self.running = self._forward_output = None
        return token_ids

    def _preprocess_logits(self, logits: Tensor, sampling_info: Any) -> Tensor:
        logits = super()._preprocess_logits(logits, sampling_info)
        # The engine divides and normalises in place from here on: LED reads the logits first.
        step, output = self.running, self._forward_output
        if step is not None:
            temperature = self.temperatures.of(sampling_info.temperatures)
            self.methods.decide(step, output, logits, temperature)
            self.methods.publish(step, output, logits)
        return logits

    def _sample_from_probs(
        self, probs: Tensor, sampling_info: Any, positions: Tensor, simple_sampling_case: bool
    ) -> Any:
        with get_exec().kernel.override(sampling_backend=self._backend):
            token_ids, mask = super()._sample_from_probs(
                probs, sampling_info, positions, simple_sampling_case
            )
        step = self.running
        if step is None or self.enable_deterministic:
            return token_ids, mask
        seeded = step.table.once(SeededRows.of)
        if seeded is not None:
            token_ids = seeded.pick(probs, positions, token_ids, self.top_p)
            if mask is not None:  # the weight it has noted is of the engine's own pick
                mask = mask._replace(selected_weight=None)
        return token_ids, mask

    def _sync_token_ids_across_tp(self, batch_next_token_ids: Tensor, sampling_info: Any) -> None:
        if self.running is not None:
            self.running.take_over(batch_next_token_ids)
        super()._sync_token_ids_across_tp(batch_next_token_ids, sampling_info)


def _built_in_backend(deterministic: bool) -> str:
    # SGLang's own rule; flashinfer ignores seeds, so deterministic inference takes pytorch.
    return "flashinfer" if get_platform().has_flashinfer and not deterministic else "pytorch"


def serves_led(model_runner: Any) -> bool:
    """Whether LED makes the tokens of this model, which is no drafter."""
    return isinstance(model_runner.sampler, LedSampler) and not model_runner.is_draft_worker


@hook("model_executor.model_runner.ModelRunner.sample", "BEFORE")
def _change_logits(self: Any, logits_output: Any, forward_batch: Any) -> None:
    table = table_of(forward_batch.sampling_info)
    if serves_led(self) and table is not None and len(table.rows):
        self.sampler.methods.change_logits(logits_output, table)


@hook("model_executor.model_runner.ModelRunner.init_attention_backends", "AFTER")
def _before_graphs(result: Any, self: Any) -> None:
    if serves_led(self) and samples_here():
        with ending_with_a_sentence():
            self.sampler.methods.allocate(self)


@hook("model_executor.model_runner.ModelRunner.prewarm_sampling", "AFTER")
def _bind(result: Any, self: Any) -> None:
    if serves_led(self):
        from led_sglang import patches

        with ending_with_a_sentence():
            patches.verify()
            self.sampler.methods.bind(self, self.sampler.proof)
