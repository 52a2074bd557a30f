"""One benchmark problem: an LM head, a batch, and every way to compute its latent posteriors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from led_sglang.kernels import (
    Decided,
    Draws,
    EagerStep,
    FinalPosterior,
    Gate,
    LaunchLimits,
    LedLimits,
    LedRows,
    LmHeadShard,
    NoiseStream,
    TritonStep,
)
from led_sglang.kernels.triton.launch import current_stream

TEMPERATURE = 0.6
CANDIDATES = 8
DEPTH = 8
LAYERS = DEPTH - 1
# Of logits: the largest of 152 K is then about 25, as real models have them.
_SPREAD = 5.5


@dataclass(frozen=True)
class Model:
    name: str
    hidden: int
    vocab: int


MODELS = {
    m.name: m
    for m in (
        Model("Qwen3-4B", 2560, 151936),
        Model("Qwen3-8B", 4096, 151936),
        Model("QwQ-32B", 5120, 152064),
    )
}
SMOKE_MODEL = Model("smoke", 72, 300)


class Problem:
    """B requests, all of them exploring (or none); latent rows M = 7 B."""

    def __init__(self, weight: Tensor, batch: int, *, explores: bool = True) -> None:
        vocab, hidden = weight.shape
        device = weight.device
        self.batch, self.rows_count = batch, batch * LAYERS
        self.head = LmHeadShard(weight, 0, vocab)
        self.limits = LedLimits(CANDIDATES, DEPTH, False, False)
        self.logits = torch.randn(batch, vocab, device=device) * _SPREAD
        latents = torch.randn(batch, LAYERS, hidden, device=device) * _SPREAD
        self.latents = latents.to(weight.dtype)
        self.rows = _rows(batch, device, explores)
        self.kernels = TritonStep(
            self.head, LaunchLimits(batch, CANDIDATES, DEPTH, vocab, LAYERS, self.latents.dtype)
        )
        self.kernels.prewarm()
        self._torch = EagerStep(self.head)
        self.workspace = self.kernels.workspace
        self.scratch = self.kernels.posterior_workspace
        seeds = torch.arange(batch, device=device)
        # Every other row has a seed.
        self._draws = Draws(NoiseStream.start(0, device), seeds, seeds % 2 == 0, seeds)
        self._engine = torch.zeros(batch, dtype=torch.int32, device=device)
        # What each kernel leaves for the next, so that each can be timed alone.
        self._plan = self.kernels.plan(self.rows, self.limits)
        self.final = self._plan.final
        self.noise = self.kernels.noise_workspace.of(batch, CANDIDATES)
        self.whole()

    @property
    def stream(self) -> object:
        """The stream of the launches."""
        return current_stream(self.kernels.chip.index)

    def whole(self) -> Decided:
        """All of a step, as a server runs it."""
        decided = self.kernels.decide(
            self.logits, self.latents, self.rows, self.limits, self._draws, None
        )
        self.kernels.settle(self._engine, decided, None)
        return decided

    def posterior(self) -> FinalPosterior:
        """With the noise, which is drawn in the same launch."""
        launch, plan = self.kernels.posterior, self._plan
        launch(self.stream, self.logits, self.limits, self._draws, plan.posterior)
        return self.final

    def gate(self) -> None:
        self.kernels.gate(self.stream, None, None, self._plan.gate)

    def gather(self) -> None:
        launch = self.kernels.gather
        launch(self.stream, self.latents, 0, self.rows_count, self._plan.gather)

    def latent_lse(self) -> None:
        self.kernels.latent_lse(self.stream, 0, self.rows_count)

    def partials(self) -> Tensor:
        launch, plan = self.kernels.partials, self._plan
        launch(self.stream, 0, self.rows_count, CANDIDATES, plan.partials)
        return plan.sent

    def combine(self) -> None:
        launch, plan = self.kernels.combine, self._plan
        launch(self.stream, plan.sent[None], self.workspace.summary, self.batch, plan.combine)

    def settle(self) -> None:
        self.kernels.settled(self.stream, self._engine, None, self._plan.settle, takes=True)

    def lse_ours(self) -> Tensor:
        """logsumexp(W h / T) [M] in float64, from the partials of its tiles, folded."""
        self.latent_lse()
        partials = self.partials()
        return partials[:, 0].double() + partials[:, 1].double().log()

    def lse_cublas(self) -> Tensor:
        """One matrix product that materialises [M, V], then torch.logsumexp in fp32."""
        hidden = self.latents.flip(1).reshape(self.rows_count, -1)
        weight = self.head.weight
        assert weight is not None
        if hidden.is_cuda:
            z = torch.mm(hidden, weight.t(), out_dtype=torch.float32)
        else:
            z = hidden.float() @ weight.float().t()
        return torch.logsumexp(z.div_(TEMPERATURE), 1)

    def lse_quack(self) -> Tensor:
        """quack's matrix product with an online logsumexp in its epilogue, logits never stored."""
        from quack.epilogue.library import rstd_lse_epi

        hidden = self.latents.flip(1).reshape(self.rows_count, -1)
        weight = self.head.weight
        assert weight is not None
        scale = torch.full((self.rows_count,), 1.0 / TEMPERATURE, device=hidden.device)
        lse: Tensor = rstd_lse_epi(hidden, weight.mT, store_d=False, rstd=scale)["lse"]
        return lse

    def eager(self) -> object:
        """`step` in plain torch."""
        return self._torch.led_step(self.final, self.latents, self.rows, self.limits, self.noise)

    def authors(self) -> Tensor:
        """The released formulation: fp32 [B, d - 1, V] posteriors, then the candidates' entries."""
        weight = self.head.weight
        assert weight is not None
        posteriors = torch.softmax((self.latents @ weight.t()).float() / TEMPERATURE, dim=-1)
        ids = self.final.ids[:, None].expand(-1, LAYERS, -1)
        return posteriors.gather(2, ids)

    def lse_float64(self) -> Tensor:
        """The truth, [M]."""
        hidden = self.latents.flip(1).reshape(self.rows_count, -1).double()
        weight = self.head.weight
        assert weight is not None
        total = torch.full((len(hidden),), -torch.inf, dtype=torch.float64, device=weight.device)
        for start in range(0, len(weight), 16384):
            z = hidden @ weight[start : start + 16384].double().t() / TEMPERATURE
            total = torch.logaddexp(total, torch.logsumexp(z, 1))
        return total


def _rows(batch: int, device: torch.device, explores: bool) -> LedRows:
    def of(value: float, dtype: torch.dtype) -> Tensor:
        return torch.full((batch,), value, dtype=dtype, device=device)

    no, yes = of(0, torch.bool), of(1, torch.bool)
    return LedRows(
        temperature=of(TEMPERATURE, torch.float32),
        greedy=no,
        depth=of(DEPTH, torch.int64),
        candidates=of(CANDIDATES, torch.int64),
        candidate_top_p=of(1.0, torch.float32),
        floor=of(0.0, torch.float32),
        final_norm=no,
        normalize_layers=no,
        release_layers=no,
        gate=of(Gate.ALWAYS if explores else Gate.NEVER, torch.int64),
        gate_value=of(0.0, torch.float32),
        random_gate=no,
        owns=yes,
        thinks=yes,
        projects=no,
    )
