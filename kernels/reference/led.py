"""The oracle of LED: docs/method.md in float64, one request at a time, slowly."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LedReference:
    """Every quantity of one LED step; k = candidates left, d = depth. Tensors are float64."""

    candidate_ids: list[int]
    layer_probs: Tensor  # [d, k], p^l(x_i) after floor and normalisation, 0 = final layer
    cumulative: Tensor  # [d, k], a^l, 0 = final layer
    entropies: list[float]  # [d], H(a^l) in nats
    depth: int  # L - l* + 1: 1 is the final layer
    p1: float
    entropy: float  # H(p^L) over V, nats
    explore_probability: float  # before a greedy row takes its likelier side
    exploit_probs: Tensor  # [k], a^L
    explore_probs: Tensor  # [k], a^{l*}
    behaviour_probs: Tensor  # [k], q

    def greedy_token(self, explore: bool) -> int:
        """The likeliest candidate of the taken side; ties: the earlier candidate."""
        probs = self.explore_probs if explore else self.exploit_probs
        return self.candidate_ids[_first_largest(probs.tolist())]


def _first_largest(values: list[float]) -> int:
    best = 0
    for i, value in enumerate(values):
        if value > values[best]:
            best = i
    return best


def _one_hot_of_largest(probs: Tensor) -> Tensor:
    one_hot = torch.zeros_like(probs)
    one_hot[_first_largest(probs.tolist())] = 1.0
    return one_hot


def _entropy(probs: list[float]) -> float:
    return -sum(p * math.log(p) for p in probs if p > 0.0)


def led_reference(
    final_logits: Tensor,
    latents: Tensor,
    lm_head: Tensor,
    *,
    temperature: float,
    depth: int,
    candidates: int,
    candidate_top_p: float = 1.0,
    floor: float = 0.0,
    normalize_layers: bool = False,
    layers: str = "paper",
    gate: str = "confidence",
    gate_value: float = 0.0,
    greedy: bool = False,
    random_gate: bool = False,
    norm: Callable[[Tensor], Tensor] | None = None,
    logit_scale: float | None = None,
    softcap: float | None = None,
) -> LedReference:
    """One LED step, as docs/method.md#notation and what follows state it.

    The floor comes before the normalisation of a layer, and `candidate_top_p=1` drops nothing. A
    layer whose candidates have no mass at all stays zero.

    Args:
        final_logits: [V], with bias, penalties and grammar already in. All floats are raised to
            float64, whatever they are.
        latents: [C, H], index 0 is h^{L-1}, then h^{L-2}, ...; C >= depth - 1 (`layers="release"`:
            depth).
        lm_head: [V, H].
        temperature: > 0 (greedy requests pass 1).
        depth, candidates, candidate_top_p, floor, normalize_layers: as a request sets them.
        layers: `paper` or `release` (docs/method.md#presets).
        gate: confidence, always, never, entropy (`gate_value` in nats) or rate (a probability).
        greedy: the temperature asked for is 0.
        random_gate: a greedy request still draws its gate.
        norm: [n, H] -> [n, H], applied to the latents; gets and may return any float dtype.
        logit_scale, softcap: as in `LmHeadShard`.

    Raises:
        ValueError: an unknown gate or layers, too few latents, or no finite final logit.

    Source: arXiv 2602.01698, and docs/method.md#presets for what its release does differently.
    """
    # docs/method.md#final-posterior: p^L = softmax(z^L / T) over the whole vocabulary.
    z = final_logits.double()
    if not bool((z > -math.inf).any()):
        raise ValueError("every final logit is -inf: there is no candidate")
    p_final = torch.softmax(z / temperature, dim=0).tolist()
    p1 = max(p_final)
    entropy = _entropy(p_final)

    # docs/method.md#candidates: the k largest; ties: lowest id; -inf is none; then the nucleus.
    final = z.tolist()
    order = sorted(range(len(final)), key=lambda v: (-final[v], v))
    ids: list[int] = []
    mass = 0.0
    for v in order[:candidates]:
        if final[v] == -math.inf:
            break
        if ids and candidate_top_p < 1.0 and mass >= candidate_top_p:
            break
        ids.append(v)
        mass += p_final[v]

    # docs/method.md#latent-posteriors: p^l = softmax(W h^l / T) over V, candidate entries kept.
    if layers not in ("paper", "release"):
        raise ValueError(f"layers is {layers!r}: paper or release")
    first = 1 if layers == "release" else 0
    if len(latents) < first + depth - 1:
        raise ValueError(f"{len(latents)} latents are too few for depth {depth}, {layers}")
    rows = [[p_final[v] for v in ids]]
    lm_head = lm_head.double()
    for i in range(first, first + depth - 1):
        hidden = latents[i : i + 1]
        if norm is not None:
            hidden = norm(hidden)
        z_latent = lm_head @ hidden[0].double()
        if logit_scale is not None:
            z_latent = z_latent * logit_scale
        if softcap is not None:
            z_latent = softcap * torch.tanh(z_latent / softcap)
        p_latent = torch.softmax(z_latent / temperature, dim=0)
        rows.append(p_latent[ids].tolist())
    for i, row in enumerate(rows):
        rows[i] = [max(p, floor) for p in row]
        layer_mass = sum(rows[i])
        if normalize_layers and layer_mass > 0.0:
            rows[i] = [p / layer_mass for p in rows[i]]

    # docs/method.md#cumulative-sums: c^l = sum over i = l..L of p^i; a^l = c^l / sum(c^l).
    cumulative: list[list[float]] = []
    c = [0.0] * len(ids)
    for row in rows:
        c = [c_i + p for c_i, p in zip(c, row, strict=True)]
        cumulative.append([c_i / sum(c) for c_i in c] if sum(c) > 0.0 else list(c))

    # docs/method.md#entropy-choice: l* = argmax H(a^l); ties: the layer nearest the final one.
    entropies = [_entropy(a) for a in cumulative]
    star = _first_largest(entropies)

    # docs/method.md#gate: the probability to explore.
    explore_probabilities = {
        "confidence": 1.0 - p1,
        "always": 1.0,
        "never": 0.0,
        "entropy": 1.0 if entropy > gate_value else 0.0,
        "rate": gate_value,
    }
    if gate not in explore_probabilities:
        raise ValueError(f"gate is {gate!r}: one of {sorted(explore_probabilities)}")
    explore_probability = explore_probabilities[gate]

    # docs/method.md#token: the step is one draw from q.
    exploit = torch.tensor(cumulative[0], dtype=torch.float64)
    explore = torch.tensor(cumulative[star], dtype=torch.float64)
    drawn = [exploit, explore]
    side = explore_probability
    if greedy:
        drawn = [_one_hot_of_largest(exploit), _one_hot_of_largest(explore)]
        if not random_gate:
            side = 1.0 if explore_probability > 0.5 else 0.0
    return LedReference(
        candidate_ids=ids,
        layer_probs=torch.tensor(rows, dtype=torch.float64),
        cumulative=torch.tensor(cumulative, dtype=torch.float64),
        entropies=entropies,
        depth=star + 1,
        p1=p1,
        entropy=entropy,
        explore_probability=explore_probability,
        exploit_probs=exploit,
        explore_probs=explore,
        behaviour_probs=(1.0 - side) * drawn[0] + side * drawn[1],
    )
