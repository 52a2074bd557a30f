"""Compile every kernel and allocate every workspace at launch, or say why not.

What cannot be prepared is served by the torch path: no request ever meets a compiler, or its error.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch
from torch import Tensor

from . import latent_lse, noise_kernel, topk_gate, triton_impl
from .compact import gate_and_compact, gather_latents
from .explore import combine
from .partials import latent_partials
from .support import unsupported_reason
from .types import (
    FinalPosterior,
    Gate,
    LedLimits,
    LedRows,
    LmHeadShard,
    NoiseStream,
    StepNoise,
)


@dataclass(frozen=True)
class _Prepared:
    """Largest sizes that need no allocation and no compilation any more."""

    batch: int
    depth: int
    candidates: int
    vocab: int
    logits_dtypes: tuple[torch.dtype, ...]
    latents_dtype: torch.dtype
    weight: tuple[object, ...]


_PREPARED: dict[torch.device, _Prepared] = {}


def prewarm(
    head: LmHeadShard,
    *,
    batch: int,
    limits: LedLimits,
    vocab: int,
    captured: int,
    latents_dtype: torch.dtype,
    logits_dtypes: Sequence[torch.dtype] = (torch.float32, torch.bfloat16),
) -> str | None:
    """Prepare the device of ``head.weight`` for steps up to these sizes, once, at launch.

    batch: most rows of a step. limits: the largest candidates and depth a request may ask for.
    vocab: columns of the final logits, all ranks together. captured: C of latents [B, C, H].
    Returns None when the kernels are ready: from then on ``impl="auto"`` uses them for steps that
    fit. Otherwise the reason why the torch path serves instead; if a kernel fails to compile, a
    RuntimeWarning names it too.
    """
    weight = head.weight
    if weight is None:
        return "the LM head has no plain weight (quantised or LoRA): torch calls the head itself"
    _PREPARED.pop(weight.device, None)
    candidates = min(limits.candidates, vocab)
    reason = unsupported_reason(weight, latents_dtype, candidates, limits.depth)
    if reason is not None:
        return reason
    latents = torch.randn(1, captured, weight.shape[1], device=weight.device).to(latents_dtype)
    for name, launch in _launches(head, batch, limits, vocab, latents, logits_dtypes):
        try:
            launch()
        except Exception as error:  # compilers, drivers and allocators each raise their own
            summary = (str(error).splitlines() or [""])[0]
            reason = (
                f"kernel {name} failed on {weight.device}: {type(error).__name__}: {summary}; "
                "LED steps use the torch path"
            )
            warnings.warn(reason, RuntimeWarning, stacklevel=2)
            return reason
    layers = limits.depth - 1
    # What was launched here served no request.
    triton_impl.step_workspace(batch, layers, candidates, weight, head.valid).live_total.zero_()
    if weight.is_cuda:
        torch.cuda.synchronize(weight.device)
    _PREPARED[weight.device] = _Prepared(
        batch,
        limits.depth,
        candidates,
        vocab,
        tuple(logits_dtypes),
        latents_dtype,
        _layout(head),
    )
    return None


def _layout(head: LmHeadShard) -> tuple[object, ...]:
    """What the kernels were compiled for; not the address itself, since weights are updated."""
    weight = head.weight
    if weight is None:
        return ()
    aligned = weight.data_ptr() % 16 == 0
    return (head.valid, weight.shape[1], weight.stride(), weight.dtype, aligned)


def withdraw(head: LmHeadShard) -> None:
    """Undo ``prewarm``: from now on ``impl="auto"`` is torch on the device of this LM head."""
    if head.weight is not None:
        _PREPARED.pop(head.weight.device, None)


def serves_posterior(logits: Tensor, limits: LedLimits) -> bool:
    """Whether ``prewarm`` prepared steps 1 and 2 of this size."""
    ready = _PREPARED.get(logits.device)
    return (
        ready is not None
        and logits.shape[0] <= ready.batch
        and logits.shape[1] == ready.vocab
        and logits.dtype in ready.logits_dtypes
        and logits.stride(1) == 1
        and min(limits.candidates, logits.shape[1]) <= ready.candidates
    )


def serves_noise(candidate_ids: Tensor) -> bool:
    """Whether ``prewarm`` prepared the noise of this many rows and candidates."""
    ready = _PREPARED.get(candidate_ids.device)
    return (
        ready is not None
        and candidate_ids.shape[0] <= ready.batch
        and candidate_ids.shape[1] <= ready.candidates
    )


def serves_step(
    final: FinalPosterior, latents: Tensor, limits: LedLimits, head: LmHeadShard
) -> bool:
    """Whether ``prewarm`` prepared steps 3 to 7 of this size, for this LM head."""
    ready = _PREPARED.get(latents.device)
    return (
        ready is not None
        and _layout(head) == ready.weight
        and (limits.depth == 1 or latents.dtype == ready.latents_dtype)
        and latents.stride(2) == 1
        and final.ids.shape[0] <= ready.batch
        and final.ids.shape[1] <= ready.candidates
        and limits.depth <= ready.depth
    )


def _launches(
    head: LmHeadShard,
    batch: int,
    limits: LedLimits,
    vocab: int,
    latents: Tensor,
    logits_dtypes: Sequence[torch.dtype],
) -> list[tuple[str, Callable[[], object]]]:
    """(kernel, its launch) for every variant a step within these sizes may need. One exploring row
    runs through all of them in the order of a step; the row tiles it does not need compile and
    exit."""
    weight = head.weight
    assert weight is not None
    device, layers = weight.device, limits.depth - 1
    largest = min(limits.candidates, vocab)
    scratch = triton_impl.posterior_workspace(batch, largest, vocab, device)
    noise_scratch = triton_impl.noise_workspace(batch, largest, device)
    workspace = triton_impl.step_workspace(batch, layers, largest, weight, head.valid)
    rows = _exploring_row(limits, device)
    launches: list[tuple[str, Callable[[], object]]] = []

    # KEEP is a power of two of at least 8, so these candidate counts cover every other.
    counts = sorted({min(k, largest) for k in (8, 16, 32, 64)})
    for k, stride, dtype, entropy in product(
        counts, _row_strides(vocab), logits_dtypes, (False, True)
    ):
        logits = torch.randn(1, stride, device=device).to(dtype)[:, :vocab]
        part = LedLimits(k, limits.depth, False, entropy)
        launch = partial(topk_gate.posterior, logits, rows, part, scratch)
        launches.append(("topk_gate", launch))

    final = FinalPosterior(
        ids=torch.arange(largest, device=device)[None],
        logprobs=torch.full((1, largest), -5.0, device=device),
        p1=torch.full((1,), 0.5, device=device),
        entropy=torch.ones(1, device=device),
    )
    position = torch.zeros(1, dtype=torch.int64, device=device)
    stream = NoiseStream.start(0, device)
    noise = StepNoise(noise_scratch.gate[:1], noise_scratch.pick[:largest].view(1, largest))
    explored = workspace.explored[:1]
    gathered = workspace.partials.new_zeros(1, layers, largest + 2)
    launches += [
        (
            "noise",
            partial(
                noise_kernel.draw_noise,
                *(stream, position, rows.owns, position, final.ids, noise_scratch),
            ),
        ),
        ("gate_compact", partial(gate_and_compact, final, rows, noise, layers, workspace)),
        ("combine", partial(combine, gathered, final, rows, noise, explored, layers, workspace)),
    ]
    if layers == 0:
        return launches
    return [
        *launches,
        ("gather_latents", partial(gather_latents, latents, rows, layers, 0, workspace, None)),
        (
            "latent_lse",
            partial(
                latent_lse.latent_lse,
                *(workspace.latent_rows, workspace.row_scale, workspace.live_count, head),
                *(workspace.tile_max, workspace.tile_sum),
                first=0,
                at_most=workspace.window,
            ),
        ),
        (
            "latent_partials",
            partial(latent_partials, final.ids, rows, layers, 0, head, workspace),
        ),
    ]


def _row_strides(vocab: int) -> tuple[int, ...]:
    """Strides of the final logits' rows: Triton compiles for multiples of 16 and for others, and a
    vocabulary padded to 64 has the one where the bare vocabulary may have the other."""
    padded = -(-vocab // 64) * 64
    return (padded,) if vocab % 16 == 0 else (padded, vocab)


def _exploring_row(limits: LedLimits, device: torch.device) -> LedRows:
    def of(value: float, dtype: torch.dtype) -> Tensor:
        return torch.full((1,), value, dtype=dtype, device=device)

    no, yes = of(0, torch.bool), of(1, torch.bool)
    return LedRows(
        temperature=of(0.6, torch.float32),
        greedy=no,
        depth=of(limits.depth, torch.int64),
        candidates=of(limits.candidates, torch.int64),
        candidate_top_p=of(1.0, torch.float32),
        floor=of(0.0, torch.float32),
        final_norm=no,
        normalize_layers=no,
        release_layers=no,
        gate=of(Gate.ALWAYS, torch.int64),
        gate_value=of(0.0, torch.float32),
        random_gate=no,
        owns=yes,
        thinks=yes,
        projects=no,
    )
