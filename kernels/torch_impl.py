"""LED step in plain torch, on any device: chunked, so [rows, V] latent logits never exist.

On CUDA every shape is static and nothing asks the device for a value, so CUDA graphs and the
overlap scheduler stay on; the price is that every row is projected. On CPU only the rows that
need it are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .torch_lse import latent_partials, merge_partials
from .types import FinalPosterior, Gate, LedLimits, LedResult, LedRows, LmHeadShard, StepNoise

__all__ = ["final_posterior", "latent_partials", "led_step", "merge_partials"]

# Bound on the temporaries of final_posterior, and what a logit costs there at its worst moment.
_TEMPORARY_BYTES = 64 * 2**20
_BYTES_PER_LOGIT = 40


def final_posterior(logits: Tensor, rows: LedRows, limits: LedLimits) -> FinalPosterior:
    """Steps 1 and 2: candidates and statistics of p^L = softmax(z^L / T) over the vocabulary.

    logits: [B, V] fp32, bf16 or fp16, with bias, penalties and grammar already applied; not
        modified. Statistics are fp32; ties go to the lowest id.
    """
    batch, vocab = logits.shape
    k = min(limits.candidates, vocab)
    step = max(1, _TEMPORARY_BYTES // (_BYTES_PER_LOGIT * vocab))
    parts = []
    for start in range(0, max(batch, 1), step):
        chunk = logits[start : start + step].float()
        temperature = rows.temperature[start : start + step, None]
        parts.append(_posterior_chunk(chunk, temperature, k, limits.entropy))
    ids, logprobs, p1, entropy = (torch.cat(column) for column in zip(*parts, strict=True))

    is_candidate = torch.arange(k, device=logits.device) < rows.candidates[:, None]
    if limits.nucleus:
        # A nucleus of 1 drops nothing, although p1 may round to 1.
        mass = logprobs.double().exp()
        mass_before = mass.cumsum(1) - mass
        top_p = rows.candidate_top_p[:, None]
        is_candidate &= (mass_before < top_p) | (top_p >= 1.0)
    logprobs = torch.where(is_candidate, logprobs, -torch.inf)
    return FinalPosterior(ids=ids, logprobs=logprobs, p1=p1, entropy=entropy)


def _posterior_chunk(
    logits: Tensor, temperature: Tensor, k: int, want_entropy: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """ids, logprobs [b, k], p1, entropy [b] of fp32 logits [b, V] at temperature [b, 1]."""
    top = logits.amax(1, keepdim=True)
    # The clamp keeps 0 * log 0 at 0 in the entropy.
    scaled = ((logits - top) / temperature).clamp_(min=-1e30)
    weights = scaled.exp()
    total = weights.sum(1, keepdim=True)
    log_total = total.log()
    # The likeliest token has weight 1. A row without any possible token counts as certain.
    p1 = torch.where(top == -torch.inf, 1.0, 1.0 / total)
    entropy = torch.zeros_like(total)
    if want_entropy:
        weighted = weights.mul_(scaled).sum(1, keepdim=True)
        entropy = torch.where(top == -torch.inf, 0.0, log_total - weighted / total)
    del scaled, weights

    ids = largest_ids(logits, k)
    z = logits.gather(1, ids)
    logprobs = torch.where(z == -torch.inf, -torch.inf, (z - top) / temperature - log_total)
    return ids, logprobs, p1[:, 0], entropy[:, 0]


def largest_ids(logits: Tensor, k: int) -> Tensor:
    """Ids [b, k] of the k largest fp32 logits [b, V], descending, ties to the lowest id.

    torch.topk promises no order among equals, so it ranks unique int64 keys: the logit's bits, made
    to order like integers, above the id counted from the end.
    """
    vocab = logits.shape[1]
    bits = (logits + 0.0).view(torch.int32)  # + 0.0 makes -0.0 and 0.0 the same bits
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    keys = ordered.long()
    del bits, ordered
    keys <<= 32
    keys |= torch.arange(vocab - 1, -1, -1, device=logits.device)
    return (vocab - 1) - (keys.topk(k, dim=1).values & 0xFFFFFFFF)


def led_step(
    final: FinalPosterior,
    latents: Tensor,
    rows: LedRows,
    limits: LedLimits,
    head: LmHeadShard,
    noise: StepNoise,
    *,
    final_norm: Callable[[Tensor], Tensor] | None = None,
    all_gather: Callable[[Tensor], Tensor] | None = None,
) -> LedResult:
    """Steps 3 to 7 for a batch.

    final: from ``final_posterior`` with the same rows and limits, over the whole vocabulary.
    latents: [B, C, H], deepest first as SGLang captures them: [:, -1] is h^{L-1}, [:, -2] h^{L-2};
        C >= depth - 1, and >= depth for rows with release_layers.
    head: this rank's shard. noise: gate [B], pick [B, K], equal on every rank.
    final_norm: [M, H] -> [M, H], needed if limits.final_norm.
    all_gather: [M, K + 2] fp32 -> [R, M, K + 2] in rank order. If given and limits.depth > 1 it is
        called exactly once, with M = B * (limits.depth - 1), whatever the gates say.

    A row whose latents hold NaN falls back to its final layer. Raises ValueError if latents are too
    few for limits.depth or final_norm is missing.
    """
    refuse_what_is_missing(latents, limits, final_norm)

    # Step 6 comes first: it needs only the final posterior, and most rows end here.
    may_explore = rows.owns & rows.thinks
    explore_probability = torch.where(may_explore, _explore_probability(final, rows, limits), 0.0)
    explored = noise.gate < explore_probability
    projected = explored | (may_explore & rows.projects)

    # Step 3. layer_live [B, D] marks the layers a row sums over; the final one always counts.
    candidate = final.logprobs > -torch.inf
    layer = torch.arange(limits.depth, device=latents.device)
    layer_live = (layer == 0) | (projected[:, None] & (layer < rows.depth[:, None]))
    p = final.logprobs.double().exp()[:, None]
    projected_rows: int | None = 0
    if limits.depth > 1:
        live = layer_live[:, 1:]
        partials, projected_rows = _project(latents, final, rows, limits, live, head, final_norm)
        if projected_rows == 0 and all_gather is None:
            p = torch.nn.functional.pad(p, (0, 0, 0, limits.depth - 1))
        else:
            gathered = partials[None] if all_gather is None else all_gather(partials)
            lse, logits = merge_partials(gathered)
            p_latent = (logits.double() - lse[:, None]).exp()
            p = torch.cat([p, p_latent.view(len(p), limits.depth - 1, -1)], dim=1)
    # The floor comes before the normalisation, and never revives what is no candidate.
    if limits.floor:
        p = p.maximum(rows.floor.double()[:, None, None])
    p = torch.where(layer_live[:, :, None] & candidate[:, None], p, 0.0)
    if limits.normalize_layers:
        p = torch.where(rows.normalize_layers[:, None, None], _normalized(p), p)

    # Steps 4 and 5. A layer that is not live adds nothing: it ties with a nearer one, which wins.
    a = _normalized(p.cumsum(1))
    star = _first_argmax(-torch.special.xlogy(a, a).sum(2))

    # Step 7: Gumbel-max over the candidates of the taken side.
    exploit = a[:, 0]
    explore = a.gather(1, star[:, None, None].expand(-1, 1, a.shape[2]))[:, 0]
    taken = torch.where(explored[:, None], explore, exploit)
    score = taken.log() + noise.pick
    if limits.greedy:
        score = torch.where(rows.greedy[:, None], taken, score)
    pick = _first_argmax(score)[:, None]

    # q is one categorical draw; it takes both sides to know it, unless one of them is certain.
    q = torch.zeros_like(exploit)
    if limits.behaviour:
        known = projected | (explore_probability == 0.0) | (rows.depth == 1)
        greedy = rows.greedy[:, None]
        drawn_exploit = torch.where(greedy, _one_hot_argmax(exploit), exploit)
        drawn_explore = torch.where(greedy, _one_hot_argmax(explore), explore)
        q = drawn_exploit.lerp(drawn_explore, explore_probability[:, None])
        q = torch.where(known[:, None], q, 0.0)

    return LedResult(
        token_ids=final.ids.gather(1, pick)[:, 0],
        explored=explored,
        depth=torch.where(explored, star + 1, 1),
        p1=final.p1,
        entropy=final.entropy,
        candidate_ids=final.ids,
        layer_probs=p.float(),
        behaviour_probs=q.float(),
        behaviour_logprob=q.gather(1, pick)[:, 0].log().float(),
        projected_rows=projected_rows,
    )


def refuse_what_is_missing(
    latents: Tensor, limits: LedLimits, final_norm: Callable[[Tensor], Tensor] | None
) -> None:
    """ValueError if latents [B, C, H] are too few for limits.depth or final_norm is missing."""
    if latents.shape[1] < limits.depth - 1:
        raise ValueError(f"{latents.shape[1]} latent layers are too few for depth {limits.depth}")
    if limits.final_norm and final_norm is None:
        raise ValueError("a row wants final_norm, but no norm was given")


def _explore_probability(final: FinalPosterior, rows: LedRows, limits: LedLimits) -> Tensor:
    """Step 6, [B] float64. Greedy rows take the likelier side: 0 or 1."""
    probability = 1.0 - final.p1.double()
    if Gate.ALWAYS in limits.gates:
        probability = torch.where(rows.gate == Gate.ALWAYS, 1.0, probability)
    if Gate.NEVER in limits.gates:
        probability = torch.where(rows.gate == Gate.NEVER, 0.0, probability)
    if Gate.ENTROPY in limits.gates:
        above = (final.entropy > rows.gate_value).double()
        probability = torch.where(rows.gate == Gate.ENTROPY, above, probability)
    if Gate.RATE in limits.gates:
        probability = torch.where(rows.gate == Gate.RATE, rows.gate_value.double(), probability)
    if limits.greedy:
        likelier = (probability > 0.5).double()
        probability = torch.where(rows.greedy & ~rows.random_gate, likelier, probability)
    return probability


def _rows_to_project(live: Tensor) -> Tensor:
    """Flat indices into live [B, D - 1]: only the live ones on CPU, all of them on CUDA, where a
    count that depends on data would stall the host."""
    if live.device.type == "cpu":
        return live.reshape(-1).nonzero()[:, 0]
    return torch.arange(live.numel(), device=live.device)


def _project(
    latents: Tensor,
    final: FinalPosterior,
    rows: LedRows,
    limits: LedLimits,
    live: Tensor,
    head: LmHeadShard,
    final_norm: Callable[[Tensor], Tensor] | None,
) -> tuple[Tensor, int | None]:
    """Step 3 on this rank's columns: (max, sumexp, K logits) [B * (D - 1), K + 2] fp32, and how
    many rows were projected. Rows not in live [B, D - 1] hold (-inf, 0, 0...)."""
    partials = final.logprobs.new_zeros(live.numel(), final.ids.shape[1] + 2)
    partials[:, 0].fill_(-torch.inf)
    index = _rows_to_project(live)
    projected_rows = index.shape[0] if live.device.type == "cpu" else None
    if index.shape[0] == 0:
        return partials, projected_rows

    layers = live.shape[1]
    request = index // layers
    row_live = live.reshape(-1).index_select(0, index)
    captured = index % layers + rows.release_layers.index_select(0, request)
    # Rows projected for their shape only may point past the captured layers: any layer will do.
    below_final = torch.where(row_live, captured, 0)
    hidden = latents[request, latents.shape[1] - 1 - below_final]
    if limits.final_norm and final_norm is not None:
        wants_norm = rows.final_norm.index_select(0, request)[:, None]
        hidden = torch.where(wants_norm, final_norm(hidden), hidden)
    peak, total, logits = latent_partials(
        hidden,
        rows.temperature.index_select(0, request),
        final.ids.index_select(0, request),
        head,
    )
    packed = torch.cat([peak[:, None], total[:, None], logits], dim=1)
    nothing = partials[:1]
    packed = torch.where(row_live[:, None], packed, nothing)
    return partials.index_copy_(0, index, packed), projected_rows


def _normalized(p: Tensor) -> Tensor:
    """p / sum over the last dimension; zeros stay zeros."""
    total = p.sum(-1, keepdim=True)
    return p / torch.where(total == 0.0, 1.0, total)


def _first_argmax(x: Tensor) -> Tensor:
    """Index of the first maximum along dim 1 (torch.argmax promises no order among equals); 0 if a
    row holds NaN, which equals nothing."""
    n = x.shape[1]
    index = torch.arange(n, device=x.device)
    return torch.where(x == x.amax(1, keepdim=True), index, n).amin(1) % n


def _one_hot_argmax(probs: Tensor) -> Tensor:
    index = torch.arange(probs.shape[1], device=probs.device)
    return (index == _first_argmax(probs)[:, None]).double()
