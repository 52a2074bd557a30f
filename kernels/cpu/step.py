"""LED step on a CPU in a handful of compiled calls, where plain torch takes hundreds.

On a small model the calls are what a step costs. The tensors' memory is read as it lies.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from ..eager import EagerStep
from ..eager.latent_lse import latent_partials
from ..eager.step import refuse_what_is_missing
from ..eager.whole import StepByParts
from ..types import (
    AllGather,
    CannotServe,
    FinalNorm,
    FinalPosterior,
    LedLimits,
    LedResult,
    LedRows,
    LmHeadShard,
    NoiseStream,
    StepNoise,
)
from .combine import combine
from .gate import gate_rows
from .jit import compile_for
from .latent_lse import CompiledSums, fold, head_partials, is_small
from .noise import draw
from .posterior import posterior

_F32, _F64, _I64, _BOOL = numba.float32, numba.float64, numba.int64, numba.boolean
_OF_ROWS = ("gate", "gate_value", "random_gate", "owns", "thinks", "projects", "release_layers")


@cache
def compile_all() -> None:
    """Compile every function for the types it is called with, once; Numba keeps them on disk."""
    # fp32, fp64, int64 and bool, a letter for each dimension
    f, d, i, b = (kind[::1] for kind in (_F32, _F64, _I64, _BOOL))
    ff, dd, ii, bits = (kind[:, ::1] for kind in (_F32, _F64, _I64, numba.uint16))
    fff = _F32[:, :, ::1]
    compile_for(posterior, ff, f, i, f, _BOOL, ii, ff, f, f)
    compile_for(draw, i, i, i, b, i, ii, d, dd)
    compile_for(gate_rows, f, f, d, i, f, b, b, b, b, b, i, b, b, d, b, i, i, i, _I64)
    compile_for(head_partials, bits, f, bits, i, i, ii, _I64, ff)
    compile_for(fold, ff, f, f, d)
    compile_for(combine, fff, ii, ff, dd, b, d, b, i, f, b, b, _BOOL, i, i, fff, ff, f)


def _memory(tensor: Tensor) -> Any:
    """The tensor as a C-contiguous array: a view, unless its rows lie apart."""
    return np.ascontiguousarray(tensor.numpy())


def _arrays(record: object, *names: str) -> dict[str, Any]:
    """Tensors of a record by name, see `_memory`."""
    return {name: np.ascontiguousarray(getattr(record, name).numpy()) for name in names}


def _tensors(arrays: dict[str, Any]) -> dict[str, Tensor]:
    """The same memory as tensors."""
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


class CpuStep(StepByParts):
    """`Step` compiled by Numba, which takes seconds the first time on a machine.

    Final logits that are not fp32 go to plain torch.

    Args:
        head: this rank's shard of the LM head.
        final_norm, all_gather: see `prepare`.

    Raises:
        CannotServe: it did not compile, which a RuntimeWarning says too.
    """

    name = "cpu"
    reason: str | None = None
    projected: Tensor | None = None

    def __init__(
        self,
        head: LmHeadShard,
        *,
        final_norm: FinalNorm | None = None,
        all_gather: AllGather | None = None,
    ) -> None:
        try:
            compile_all()
        except Exception as error:  # Numba, LLVM and the file system of its cache raise their own
            summary = (str(error).splitlines() or [""])[0]
            reason = f"the CPU step did not compile: {type(error).__name__}: {summary}"
            warnings.warn(f"{reason}; LED steps run in torch", RuntimeWarning, stacklevel=2)
            raise CannotServe(reason) from error
        self._head = head
        self._final_norm = final_norm
        self._all_gather = all_gather
        self._eager = EagerStep(head, final_norm=final_norm, all_gather=all_gather)

    def final_posterior(self, logits: Tensor, rows: LedRows, limits: LedLimits) -> FinalPosterior:
        """See `Step.final_posterior`."""
        if logits.dtype != torch.float32:
            return self._eager.final_posterior(logits, rows, limits)
        batch, vocab = logits.shape
        k = min(limits.candidates, vocab)
        final = {
            "ids": np.empty((batch, k), np.int64),
            "logprobs": np.empty((batch, k), np.float32),
            "p1": np.empty(batch, np.float32),
            "entropy": np.empty(batch, np.float32),
        }
        posterior(
            logits=_memory(logits),
            **_arrays(rows, "temperature", "candidates", "candidate_top_p"),
            want_entropy=limits.entropy,
            **final,
        )
        return FinalPosterior(**_tensors(final))

    def draw_noise(
        self,
        stream: NoiseStream,
        seeds: Tensor,
        has_seed: Tensor,
        positions: Tensor,
        candidate_ids: Tensor,
    ) -> StepNoise:
        """See `Step.draw_noise`."""
        noise = {
            "gate": np.empty(len(candidate_ids), np.float64),
            "pick": np.empty(candidate_ids.shape, np.float64),
        }
        draw(
            stream_seed=stream.seed.numpy(),
            stream_step=stream.step.numpy(),
            seeds=_memory(seeds),
            has_seed=_memory(has_seed),
            positions=_memory(positions),
            ids=_memory(candidate_ids),
            **noise,
        )
        return StepNoise(**_tensors(noise))

    def led_step(
        self,
        final: FinalPosterior,
        latents: Tensor,
        rows: LedRows,
        limits: LedLimits,
        noise: StepNoise,
    ) -> LedResult:
        """See `Step.led_step`."""
        refuse_what_is_missing(latents, limits, self._head, self._final_norm)
        batch, k = final.ids.shape
        layers = limits.depth - 1
        all_gather = self._all_gather
        decided = {
            "explored": np.empty(batch, np.bool_),
            "explore_probability": np.empty(batch, np.float64),
        }
        projected = np.empty(batch, np.bool_)
        live_rows = torch.empty(3, batch * layers, dtype=torch.int64)
        request, below_final, place = live_rows.numpy()
        asked = _arrays(rows, "depth", "greedy")
        live = gate_rows(
            **_arrays(final, "p1", "entropy"),
            draw=_memory(noise.gate),
            **asked,
            **_arrays(rows, *_OF_ROWS),
            **decided,
            projected=projected,
            request=request,
            below_final=below_final,
            place=place,
            layers=layers,
        )
        gathered = final.logprobs.new_empty(1, batch * layers if live else 0, k + 2)
        if layers and all_gather is not None:
            gathered = final.logprobs.new_zeros(1, batch * layers, k + 2)
            gathered[:, :, 0].fill_(-torch.inf)
        if live:
            self._project(final, latents, rows, limits, live_rows[:, :live], gathered[0])
        if layers and all_gather is not None:
            gathered = all_gather(gathered[0])
        result = {
            "token_ids": np.empty(batch, np.int64),
            "depth": np.empty(batch, np.int64),
            "layer_probs": np.empty((batch, layers + 1, k), np.float32),
            "behaviour_probs": np.empty((batch, k), np.float32),
            "behaviour_logprob": np.empty(batch, np.float32),
        }
        combine(
            gathered=_memory(gathered),
            **_arrays(final, "ids", "logprobs"),
            noise=_memory(noise.pick),
            **decided,
            projected=projected,
            row_depth=asked["depth"],
            greedy=asked["greedy"],
            **_arrays(rows, "floor", "normalize_layers"),
            want_behaviour=limits.behaviour,
            **result,
        )
        return LedResult(
            p1=final.p1,
            entropy=final.entropy,
            candidate_ids=final.ids,
            projected_rows=live,
            **_tensors(decided | result),
        )

    def _project(
        self,
        final: FinalPosterior,
        latents: Tensor,
        rows: LedRows,
        limits: LedLimits,
        live_rows: Tensor,
        partials: Tensor,
    ) -> None:
        """Fill the live rows' places of partials [B * (D - 1), K + 2] with this rank's columns.

        Args:
            live_rows: [3, M] int64, as `gate_rows` leaves them: request, layer below the final,
                place.
        """
        head = self._head
        request, below_final, place = live_rows
        hidden = latents[request, latents.shape[1] - 1 - below_final]
        if limits.final_norm and self._final_norm is not None:
            wants_norm = rows.final_norm.index_select(0, request)[:, None]
            hidden = torch.where(wants_norm, self._final_norm(hidden), hidden)
        if is_small(head, hidden):
            assert head.weight is not None
            head_partials(
                latents=_memory(hidden.view(torch.uint16)),
                temperature=_memory(rows.temperature),
                weight=_memory(head.weight[: head.valid].view(torch.uint16)),
                request=request.numpy(),
                place=place.numpy(),
                ids=_memory(final.ids),
                vocab_start=head.vocab_start,
                partials=partials.numpy(),
            )
            return
        temperature = rows.temperature.index_select(0, request)
        peak, total, logits = latent_partials(
            hidden,
            temperature,
            final.ids.index_select(0, request),
            head,
            sums=CompiledSums(temperature),
        )
        partials.index_copy_(0, place, torch.cat([peak[:, None], total[:, None], logits], dim=1))
