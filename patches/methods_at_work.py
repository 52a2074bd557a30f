"""The enabled methods on the loaded model: what a step asks of them, whoever runs it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from led_sglang.kernels import LmHeadShard, Step
from led_sglang.methods.base import LogitsChanger, LogitsContext, StepContext, TokenSampler
from led_sglang.methods.registry import METHODS
from led_sglang.methods.reporting import Record
from led_sglang.methods.rows import RowTable
from led_sglang.methods.soft_thinking.state import SoftState
from led_sglang.patches.batch_step import BatchStep
from led_sglang.patches.binding import Binding, bind
from led_sglang.patches.captured_streams import streams_of
from led_sglang.patches.embedding import SoftInputs
from led_sglang.patches.first_streams import FirstStreams
from led_sglang.patches.proven_capture import Report as CaptureReport
from led_sglang.patches.stages import from_the_last_stage, samples_here
from led_sglang.patches.statistics import (
    FromTheLastStage,
    Serving,
    StepStatistics,
    show_from_the_start,
)
from led_sglang.phase import ThinkAutomaton
from led_sglang.settings import ServerSettings


class MethodsAtWork:
    """The enabled methods, bound to the model.

    Args:
        settings: of the server.
        automaton: of its delimiters; None without a think phase.
    """

    bound: Binding  # set by `bind`, where this process samples
    _serving: Serving  # set by `bind`

    def __init__(self, settings: ServerSettings, automaton: ThinkAutomaton | None) -> None:
        self.automaton = automaton
        self.soft_inputs: SoftInputs | None = None
        self._settings = settings
        self._methods = [m for m in METHODS if set(m.samplers) & set(settings.enabled)]
        self._states: dict[str, Any] = {}
        # Each with the samplers it serves.
        self._samplers: list[tuple[frozenset[str], TokenSampler]] = []
        self._changers: list[tuple[frozenset[str], LogitsChanger]] = []
        # Whether the captured layers are still to be looked at once.
        self._unseen = bool(settings.captured) and settings.self_check != "off"

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

    def bind(self, model_runner: Any, proof: CaptureReport | None = None) -> None:
        """Take what a step needs from the loaded model; called once, before the first request.

        Args:
            proof: what the truncation check found.

        Raises:
            LaunchRefused: the model lacks a part LED needs; on every stage alike.
        """
        self._serving = from_the_last_stage(lambda: self._bind(model_runner, proof))
        if not samples_here():
            model_runner.sampling_observer = FromTheLastStage(self._serving)
        show_from_the_start(self._serving, self._settings.depth)

    def _bind(self, model_runner: Any, proof: CaptureReport | None) -> Serving:
        self.bound = bind(model_runner, self._settings, self.automaton)
        for method in self._methods:
            at_work = method.bind(self.bound.model, self._states[method.samplers[0]])
            if isinstance(at_work, TokenSampler):
                self._samplers.append((frozenset(method.samplers), at_work))
            else:
                self._changers.append((frozenset(method.samplers), at_work))
        soft = self.soft_inputs is not None
        return Serving(self.step.name, self.step.reason, self.bound.checked, soft, proof)

    @property
    def step(self) -> Step:
        """Who computes LED's steps in this process."""
        return self.bound.model.step

    @property
    def head(self) -> LmHeadShard:
        """The LM head that LED reads."""
        return self.bound.model.head

    @property
    def serving(self) -> Serving:
        """Who computes LED's steps on this server, by what is known here."""
        if samples_here():
            self._serving.reason = self.step.reason
        return self._serving

    def change_logits(self, logits_output: Any, table: RowTable) -> None:
        """Let the methods that change logits do so, before penalties, grammar and temperature."""
        logits = logits_output.next_token_logits
        for samplers, method in self._changers:
            if samplers & table.samplers:
                captured = self._captured(logits_output, logits)
                method.change(LogitsContext(logits, captured, table))

    def decide(
        self, step: BatchStep, logits_output: Any, logits: Tensor, temperature: Tensor
    ) -> None:
        """Let the methods that pick tokens do so.

        Args:
            step: gets their picks.
            logits_output: SGLang's, of the forward.
            logits: [B, V] final ones.
            temperature: [B] f32; the same object for the same batch, by which steps know it.
        """
        if self.soft_inputs is not None and step.inputs.initial is None:
            self.soft_inputs.check_applied()
        captured = self._captured(logits_output, logits)
        context = StepContext(
            logits=logits,
            latents=captured[:, captured.shape[1] - len(self._settings.latent_layers) :],
            positions=step.positions,
            slots=step.inputs.slots,
            temperature=temperature,
            phase=step.phase,
            table=step.table,
        )
        step.picks = [
            method.step(context)
            for samplers, method in self._samplers
            if samplers & step.table.samplers
        ]

    def publish(
        self, step: BatchStep, logits_output: Any, logits: Tensor, nodes: Tensor | None = None
    ) -> None:
        """Send what a step leaves behind to the host, with its tokens.

        Args:
            step: whose methods have decided.
            logits_output: SGLang's, of the forward.
            logits: [B, V] of its rows.
            nodes: [requests, A] int64, of a verification: the rows whose tokens may be committed,
                in their order; None: all, one of each request.
        """
        records: list[Record] = step.records()
        per_request = 1
        if nodes is not None:
            rows, per_request = nodes.flatten(), nodes.shape[1]
            records = [record.copied(lambda tensor: tensor[rows]) for record in records]
        if self._unseen:
            self._unseen = False
            captured = self._captured(logits_output, logits)
            records.append(FirstStreams.of(captured, logits, self._settings.captured))
        if records:
            statistics = StepStatistics.of(records, self.step, per_request)
            logits_output.auxiliary_device_output = statistics

    def _captured(self, logits_output: Any, logits: Tensor) -> Tensor:
        return streams_of(logits_output, logits, self.bound.hidden_size, self._settings)


class SameTemperatures:
    """Columns of temperatures as rows of them: the same object for the same column."""

    def __init__(self) -> None:
        self._last: tuple[Tensor, int, Tensor] | None = None

    def of(self, column: Tensor, times: int = 1) -> Tensor:
        """[B, 1] as [B * times], each that often."""
        if self._last is None or self._last[0] is not column or self._last[1] != times:
            flat = column.view(-1)
            self._last = column, times, flat if times == 1 else flat.repeat_interleave(times)
        return self._last[2]
