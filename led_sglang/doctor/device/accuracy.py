"""Probabilities against float64 row tile by row tile, and decisions against the oracle."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor

from led_sglang.doctor.device.batch import alike, mixed, rms_norm, run
from led_sglang.doctor.device.finding import Finding
from led_sglang.doctor.device.shape import Shape
from led_sglang.kernels import (
    EagerStep,
    Gate,
    LedReference,
    LedResult,
    LmHeadShard,
    Step,
    StepNoise,
    latent_posteriors,
    led_reference,
)
from led_sglang.kernels.check import compare
from led_sglang.kernels.synthetic import SyntheticBatch
from led_sglang.kernels.triton.tiles import row_tiles

# docs/method.md#numerics: at most twice the error of torch's own product, and never more than this.
_NEVER_MORE = 2e-3
# What float32 results are off whoever computes them: of few rows torch's may be off less by chance.
_ROUNDING = 5e-5
# Differences that may turn a decision: of a draw and its threshold, of two scores, of entropies.
_CLOSE = 5e-3
# Below this an fp32 result cannot carry a relative error.
_SMALLEST = 1e-30


def explorers_of_tiles(shape: Shape, step: Step) -> list[tuple[str, int]]:
    """What to call, and how many explorers make, each case of the product with the LM head.

    The kernels choose a row tile by the live latent rows; without them there are none.
    """
    if shape.layers == 0:
        return []
    if step.name != "triton":
        return [(f"{n} exploring", n) for n in (1, 8, 32)]
    cases, below = [], 0
    for tile in row_tiles(shape.dtype):
        count = tile // shape.layers
        if count * shape.layers > below:
            cases.append((f"row tile {tile}", count))
        below = tile
    return [*cases, (f"several tiles of {below}", 3 * below // shape.layers + 1)]


def probabilities(name: str, count: int, step: Step, shape: Shape, weight: Tensor) -> Finding:
    """p^l of every latent row of a batch that explores as one, against float64 and torch."""
    batch = alike(count, shape, weight)
    final, _, result = run(step, batch)
    rows = count * shape.layers
    hidden = batch.latents[:, 1:].flip(1).reshape(rows, shape.hidden)
    ids = final.ids[:, None].expand(-1, shape.layers, -1).reshape(rows, -1)
    temperature = batch.rows.temperature[0].item()
    truth = latent_posteriors(hidden, temperature, ids, weight)
    ours = _error(result.layer_probs[:, 1:].reshape(rows, -1), truth)
    torchs = _error(_plain_posteriors(hidden, temperature, ids, weight), truth)
    allowed = min(max(2 * torchs, _ROUNDING), _NEVER_MORE)
    figures = f"{rows} rows: off by {ours:.1e}, torch's product by {torchs:.1e}"
    return Finding(f"p^l, {name}", ours <= allowed, f"{figures}, allowed {allowed:.1e}")


def _plain_posteriors(hidden: Tensor, temperature: float, ids: Tensor, weight: Tensor) -> Tensor:
    """The same as `latent_posteriors` from one matrix product with float32 output."""
    if hidden.is_cuda and hidden.dtype != torch.float32:
        z = torch.mm(hidden, weight.t(), out_dtype=torch.float32)
    else:
        z = hidden.float() @ weight.float().t()
    z.div_(temperature)
    return torch.exp(z.gather(1, ids) - torch.logsumexp(z, 1, keepdim=True))


def _error(ours: Tensor, truth: Tensor) -> float:
    """The largest relative error; infinite where a result is no number."""
    off = (ours.double() - truth).abs() / truth.clamp(min=_SMALLEST)
    return float(torch.nan_to_num(off, nan=torch.inf).max())


def against_torch(step: Step, shape: Shape, weight: Tensor) -> Finding:
    """The comparison that every launch makes, on more rows: see `led_sglang.kernels.check`."""
    trusted = EagerStep(LmHeadShard(weight, 0, shape.vocab), final_norm=rms_norm)
    outcome = compare(step, trusted, mixed(shape, weight))
    figures = f"{outcome.rows} requests, {outcome.decided} of them decide by more than rounding"
    return Finding("as plain torch", outcome.finding is None, outcome.finding or figures)


def decisions(step: Step, shape: Shape, weight: Tensor) -> Finding:
    """Gate, depth, token and q of requests of every kind against the oracle, row by row."""
    batch = mixed(shape, weight)
    _, noise, result = run(step, batch)
    exact = weight.double()
    off = []
    columns = {name: column.tolist() for name, column in vars(batch.rows).items()}
    requests = [
        SimpleNamespace(**dict(zip(columns, values, strict=True)))
        for values in zip(*columns.values(), strict=True)
    ]
    for row, request in enumerate(requests):
        reference = _reference(batch, row, request, exact)
        what = _difference(row, request, reference, noise, result)
        if what is not None:
            off.append(f"{what} in row {row}, gate {Gate(request.gate).name.lower()}")
    explored, depths = int(result.explored.sum()), int(result.depth.max())
    figures = f"{len(requests)} requests, {explored} explored, down to depth {depths}"
    if off:
        figures = f"{len(off)} of {len(requests)} requests differ: {off[0]}"
    return Finding("as the oracle", not off, figures)


def _reference(
    batch: SyntheticBatch, row: int, request: SimpleNamespace, exact: Tensor
) -> LedReference:
    return led_reference(
        batch.logits[row].cpu(),
        batch.latents[row].flip(0),
        exact,
        temperature=request.temperature,
        depth=request.depth,
        candidates=request.candidates,
        candidate_top_p=request.candidate_top_p,
        floor=request.floor,
        normalize_layers=request.normalize_layers,
        layers="release" if request.release_layers else "paper",
        gate=Gate(request.gate).name.lower(),
        gate_value=request.gate_value,
        greedy=request.greedy,
        random_gate=request.random_gate,
        norm=rms_norm if request.final_norm else None,
    )


def _difference(
    row: int, request: SimpleNamespace, reference: LedReference, noise: StepNoise, result: LedResult
) -> str | None:
    """What of a row is not as the oracle has it, as far as rounding cannot be the reason."""
    k = len(reference.candidate_ids)
    if result.candidate_ids[row, :k].tolist() != reference.candidate_ids:
        return "other candidates"
    may_explore = request.owns and request.thinks
    probability = reference.explore_probability if may_explore else 0.0
    if request.greedy and not request.random_gate:
        probability = float(probability > 0.5)
    if abs(result.explore_probability[row].item() - probability) > _CLOSE:
        return f"another probability to explore, {result.explore_probability[row].item():.4f}"
    explored, draw = bool(result.explored[row]), noise.gate[row].item()
    if explored != (draw < probability) and abs(draw - probability) > _CLOSE:
        return "another side of the gate"
    taken = result.layer_probs[row].double().cpu()
    projected = explored or (may_explore and request.projects)
    live = request.depth if projected else 1
    comparable = projected or not request.normalize_layers
    if comparable and _error(taken[:live, :k], reference.layer_probs[:live]) > _NEVER_MORE:
        return "other probabilities"
    if taken[live:].count_nonzero() or taken[:, k:].count_nonzero():
        return "probabilities where there are none"
    depth, entropies = int(result.depth[row]), reference.entropies
    expected = reference.depth if explored else 1
    possible = range(1, (request.depth if explored else 1) + 1)
    if depth not in possible or (explored and max(entropies) - entropies[depth - 1] > _CLOSE):
        return f"depth {depth} instead of {expected}"
    side = reference.cumulative[depth - 1 if explored else 0]
    score = side if request.greedy else side.log() + noise.pick[row, :k].double().cpu()
    token = int(result.token_ids[row])
    if token not in reference.candidate_ids:
        return f"token {token}, which is no candidate"
    place = reference.candidate_ids.index(token)
    if score.max() - score[place] > _CLOSE:
        return f"token {token}, the candidate of rank {place + 1}, which did not win"
    chance = result.behaviour_probs[row, place].item()
    if abs(result.behaviour_logprob[row].exp().item() - chance) > _CLOSE:
        return "a log q that is not that of its q"
    if projected and not request.greedy:
        q = result.behaviour_probs[row, :k].double().cpu()
        if (q - reference.behaviour_probs).abs().max() > _CLOSE:
            return "another q"
    return None
