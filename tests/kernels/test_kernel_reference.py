"""The oracle itself, on inputs small enough to work out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from led_sglang.kernels import LedReference, led_reference

EYE = torch.eye(4)


def log(*probs: float) -> torch.Tensor:
    """Logits whose softmax is ``probs``; with the identity as LM head, also a hidden state."""
    return torch.tensor(probs, dtype=torch.float64).log()


FINAL = log(0.6, 0.3, 0.05, 0.05)
# h^{L-1} is flat over the candidates 0 and 1, h^{L-2} prefers 1, h^{L-3} prefers 0.
LATENTS = torch.stack(
    [log(0.2, 0.2, 0.3, 0.3), log(0.1, 0.7, 0.1, 0.1), log(0.9, 0.02, 0.04, 0.04)]
)


def reference(**changes: Any) -> LedReference:
    options: dict[str, Any] = {"temperature": 1.0, "depth": 3, "candidates": 2} | changes
    logits = options.pop("final_logits", FINAL)
    latents = options.pop("latents", LATENTS)
    return led_reference(logits, latents, EYE, **options)


def entropy(*probs: float) -> float:
    return -sum(p * math.log(p) for p in probs)


def approx(*values: float) -> Any:
    return pytest.approx(list(values), rel=1e-12)


def test_paper_step_worked_by_hand() -> None:
    r = reference()
    assert r.candidate_ids == [0, 1]
    assert r.layer_probs.flatten().tolist() == approx(0.6, 0.3, 0.2, 0.2, 0.1, 0.7)
    # c = (.6, .3), (.8, .5), (.9, 1.2)
    assert r.cumulative.flatten().tolist() == approx(2 / 3, 1 / 3, 8 / 13, 5 / 13, 3 / 7, 4 / 7)
    assert r.entropies == approx(
        entropy(2 / 3, 1 / 3), entropy(8 / 13, 5 / 13), entropy(3 / 7, 4 / 7)
    )
    assert r.depth == 3
    assert r.p1 == pytest.approx(0.6)
    assert r.entropy == pytest.approx(entropy(0.6, 0.3, 0.05, 0.05))
    assert r.explore_probability == pytest.approx(0.4)
    assert r.behaviour_probs.tolist() == approx(0.6 * 2 / 3 + 0.4 * 3 / 7, 0.6 / 3 + 0.4 * 4 / 7)


def test_release_skips_the_layer_below_the_final_one() -> None:
    r = reference(layers="release")
    assert r.layer_probs.flatten().tolist() == approx(0.6, 0.3, 0.1, 0.7, 0.9, 0.02)
    with pytest.raises(ValueError, match="3 latents are too few for depth 4, release"):
        reference(layers="release", depth=4)
    assert len(reference(depth=4).entropies) == 4


def test_temperature_applies_to_every_layer() -> None:
    r = reference(temperature=0.5)
    total = 0.36 + 0.09 + 2 * 0.0025
    assert r.layer_probs[0].tolist() == approx(0.36 / total, 0.09 / total)
    total = 2 * 0.04 + 2 * 0.09
    assert r.layer_probs[1].tolist() == approx(0.04 / total, 0.04 / total)


def test_floor_comes_before_normalisation() -> None:
    r = reference(floor=0.25, normalize_layers=True)
    third = 0.25 / 0.95
    assert r.layer_probs.flatten().tolist() == approx(2 / 3, 1 / 3, 0.5, 0.5, third, 0.7 / 0.95)


def test_candidates_ties_masks_and_nucleus() -> None:
    tied = torch.tensor([1.0, 2.0, 2.0, 1.0])
    assert reference(final_logits=tied, candidates=3).candidate_ids == [1, 2, 0]
    masked = torch.tensor([-math.inf, 2.0, -math.inf, 3.0])
    assert reference(final_logits=masked, candidates=4).candidate_ids == [3, 1]
    for top_p, kept in [(0.5, [0]), (0.61, [0, 1]), (0.91, [0, 1, 2]), (1.0, [0, 1, 2, 3])]:
        assert reference(candidates=4, candidate_top_p=top_p).candidate_ids == kept
    with pytest.raises(ValueError, match="every final logit is -inf"):
        reference(final_logits=torch.full((4,), -math.inf))


@pytest.mark.parametrize(
    ("gate", "value", "probability"),
    [
        ("confidence", 0.0, 0.4),
        ("always", 0.0, 1.0),
        ("never", 0.0, 0.0),
        ("entropy", 0.9, 1.0),
        ("entropy", 1.0, 0.0),
        ("rate", 0.3, 0.3),
    ],
)
def test_gates(gate: str, value: float, probability: float) -> None:
    assert reference(gate=gate, gate_value=value).explore_probability == pytest.approx(probability)


def test_greedy_takes_the_likelier_side_and_its_argmax() -> None:
    r = reference(greedy=True)
    assert (r.greedy_token(explore=False), r.greedy_token(explore=True)) == (0, 1)
    assert r.behaviour_probs.tolist() == [1.0, 0.0]
    assert reference(greedy=True, gate="rate", gate_value=0.6).behaviour_probs.tolist() == [0, 1]
    half = reference(greedy=True, gate="rate", gate_value=0.5)
    assert half.behaviour_probs.tolist() == [1.0, 0.0]
    random = reference(greedy=True, random_gate=True)
    assert random.behaviour_probs.tolist() == approx(0.6, 0.4)


def test_entropy_ties_go_to_the_final_layer() -> None:
    assert reference(candidates=1).depth == 1
    flat = torch.zeros(4)
    assert reference(final_logits=flat, latents=torch.zeros(3, 4), depth=4).depth == 1


def test_layer_without_any_mass_stays_zero() -> None:
    empty = torch.tensor([[-math.inf, -math.inf, 0.0, 0.0]])
    r = led_reference(
        FINAL,
        empty.nan_to_num(neginf=-1e6),
        EYE,
        temperature=0.1,
        depth=2,
        candidates=2,
        normalize_layers=True,
    )
    assert r.layer_probs[1].tolist() == [0.0, 0.0]
    assert r.cumulative[1].tolist() == r.cumulative[0].tolist()


def test_norm_scale_and_softcap_shape_the_latent_logits() -> None:
    r = reference(depth=2, norm=lambda h: 2 * h, logit_scale=3.0, softcap=1.5)
    z = 1.5 * torch.tanh(LATENTS[0] * 2 * 3.0 / 1.5)
    assert r.layer_probs[1].tolist() == approx(*torch.softmax(z, 0)[:2].tolist())


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'maybe'.*confidence"):
        reference(gate="maybe")
    with pytest.raises(ValueError, match="'other': paper or release"):
        reference(layers="other")
