"""One benchmark problem: an LM head, a batch, and every way to compute its latent posteriors.

The kernels share the device's workspaces, so one problem is measured before the next is made.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels import (
    Gate,
    LedLimits,
    LedResult,
    LedRows,
    LmHeadShard,
    NoiseStream,
    StepNoise,
    draw_noise,
    final_posterior,
    led_step,
)
from kernels.compact import gate_and_compact, gather_latents
from kernels.explore import combine
from kernels.latent_lse import latent_lse
from kernels.partials import latent_partials
from kernels.topk_gate import PosteriorWorkspace
from kernels.triton_impl import posterior_workspace, step_workspace
from kernels.workspace import StepWorkspace

TEMPERATURE = 0.6
CANDIDATES = 8
DEPTH = 8
LAYERS = DEPTH - 1


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
        self.logits = torch.randn(batch, vocab, device=device) * 2.0
        self.latents = torch.randn(batch, LAYERS, hidden, device=device).to(weight.dtype)
        self.rows = _rows(batch, device, explores)
        self.final = final_posterior(self.logits, self.rows, self.limits, impl="triton")
        self._stream = NoiseStream.start(0, device)
        self._seeds = torch.arange(batch, device=device)
        self._has_seed = self._seeds % 2 == 0
        self.noise: StepNoise = self.k_noise()
        self.scratch: PosteriorWorkspace = posterior_workspace(batch, CANDIDATES, vocab, device)
        self.workspace: StepWorkspace = step_workspace(batch, LAYERS, CANDIDATES, weight, vocab)
        self.step()  # fills the workspace, so that each kernel can be timed alone
        self._explored = gate_and_compact(self.final, self.rows, self.noise, LAYERS, self.workspace)
        self._partials = self.k4_partials()

    def whole(self) -> LedResult:
        """Steps 1 to 7 and the noise, as a server runs them."""
        self.k0()
        self.k_noise()
        return self.step()

    def step(self) -> LedResult:
        """Steps 3 to 7 by K1 to K4."""
        return led_step(
            self.final,
            self.latents,
            self.rows,
            self.limits,
            self.head,
            self.noise,
            impl="triton",
        )

    def k0(self) -> object:
        return final_posterior(self.logits, self.rows, self.limits, impl="triton")

    def k_noise(self) -> StepNoise:
        """Every other row has a seed."""
        return draw_noise(
            self._stream, self._seeds, self._has_seed, self._seeds, self.final.ids, impl="triton"
        )

    def k1(self) -> object:
        return gate_and_compact(self.final, self.rows, self.noise, LAYERS, self.workspace)

    def k2(self) -> None:
        gather_latents(self.latents, self.rows, LAYERS, 0, self.workspace, None)

    def k3(self) -> None:
        w = self.workspace
        latent_lse(
            w.latent_rows,
            w.row_scale,
            w.live_count,
            self.head,
            w.tile_max,
            w.tile_sum,
            first=0,
            at_most=self.rows_count,
        )

    def k4_partials(self) -> Tensor:
        return latent_partials(self.final.ids, self.rows, LAYERS, 0, self.head, self.workspace)

    def k4_combine(self) -> object:
        return combine(
            self._partials[None],
            self.final,
            self.rows,
            self.noise,
            self._explored,
            LAYERS,
            self.workspace,
        )

    def lse_ours(self) -> Tensor:
        """logsumexp(W h / T) [M] in float64, from K3's partials as K4 folded them."""
        self.k3()
        partials = self.k4_partials()
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
        """The chunked torch implementation of steps 3 to 7."""
        return led_step(
            self.final, self.latents, self.rows, self.limits, self.head, self.noise, impl="torch"
        )

    def authors(self) -> Tensor:
        """The released formulation: fp32 [B, d - 1, V] posteriors, then the candidates' entries."""
        weight = self.head.weight
        assert weight is not None
        posteriors = torch.softmax((self.latents @ weight.t()).float() / TEMPERATURE, dim=-1)
        ids = self.final.ids[:, None].expand(-1, LAYERS, -1)
        return posteriors.gather(2, ids)

    def lse_float64(self, most: int = 14) -> Tensor:
        """The truth for the first rows, [min(M, most)]."""
        hidden = self.latents.flip(1).reshape(self.rows_count, -1)[:most].double()
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
