"""Random LED batches, and what the float64 oracle says about each of their rows."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from led_sglang.kernels import (
    EagerStep,
    FinalPosterior,
    Gate,
    LaunchLimits,
    LedLimits,
    LedReference,
    LedResult,
    LedRows,
    LmHeadShard,
    Step,
    StepNoise,
    TritonStep,
    led_reference,
    seeded_noise,
)


@dataclass(frozen=True)
class Request:
    """One row of a batch, as plain numbers; the field names are those of LedRows."""

    temperature: float = 0.6
    greedy: bool = False
    depth: int = 8
    candidates: int = 8
    candidate_top_p: float = 1.0
    floor: float = 0.0
    final_norm: bool = False
    normalize_layers: bool = False
    release_layers: bool = False
    gate: Gate = Gate.CONFIDENCE
    gate_value: float = 0.0
    random_gate: bool = False
    owns: bool = True
    thinks: bool = True
    projects: bool = False


_DTYPES = {"int": torch.int64, "Gate": torch.int64, "bool": torch.bool, "float": torch.float32}


def rows_of(requests: list[Request]) -> LedRows:
    return LedRows(
        **{
            f.name: torch.tensor([getattr(r, f.name) for r in requests], dtype=_DTYPES[f.type])
            for f in fields(Request)
        }
    )


def limits_of(requests: list[Request]) -> LedLimits:
    return LedLimits(
        candidates=max(r.candidates for r in requests),
        depth=max(r.depth for r in requests),
        final_norm=any(r.final_norm for r in requests),
        entropy=True,
    )


def rms_norm(x: Tensor) -> Tensor:
    """Rounds like a model's norm, but not differently for another batch shape. The gain is small so
    that z / T stays small at T = 0.05 too (see random_case)."""
    gain = torch.linspace(0.05, 0.35, x.shape[-1], dtype=torch.float64, device=x.device)
    y = x.double()
    return (y * (y.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * gain).to(x.dtype)


@dataclass(frozen=True)
class Case:
    requests: list[Request]
    logits: Tensor  # [B, V]
    latents: Tensor  # [B, C, H], deepest first
    weight: Tensor  # [V, H]
    logit_scale: float | None = None
    softcap: float | None = None
    seeds: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    def head(self) -> LmHeadShard:
        return LmHeadShard(self.weight, 0, len(self.weight), self.logit_scale, self.softcap)

    def launch_limits(self) -> LaunchLimits:
        """The case itself is the largest step."""
        limits = limits_of(self.requests)
        return LaunchLimits(
            batch=len(self.requests),
            candidates=limits.candidates,
            depth=limits.depth,
            vocab=self.logits.shape[1],
            captured=self.latents.shape[1],
            latents_dtype=self.latents.dtype,
            logits_dtypes=(torch.float32, torch.bfloat16),
        )

    def final(self) -> FinalPosterior:
        limits = limits_of(self.requests)
        return step_for(self).final_posterior(self.logits, rows_of(self.requests), limits)

    def noise(self, final: FinalPosterior) -> StepNoise:
        return seeded_noise(self.seeds, torch.full_like(self.seeds, 11), final.ids)

    def step(self, noise: StepNoise | None = None, **options) -> LedResult:  # type: ignore[no-untyped-def]
        """The case's step; `options` are those of `step_for`."""
        step = step_for(self, **({"final_norm": rms_norm} | options))
        rows, limits = rows_of(self.requests), limits_of(self.requests)
        final = step.final_posterior(self.logits, rows, limits)
        return step.led_step(final, self.latents, rows, limits, noise or self.noise(final))

    def only(self, row: int) -> Case:
        part = slice(row, row + 1)
        return Case(
            self.requests[part],
            self.logits[part],
            self.latents[part],
            self.weight,
            self.logit_scale,
            self.softcap,
            self.seeds[part],
        )

    def reference(self, row: int) -> LedReference:
        r = self.requests[row]
        return led_reference(
            self.logits[row],
            self.latents[row].flip(0),
            self.weight,
            # The same input as the kernel's: 0.6 is not a float32.
            temperature=rows_of([r]).temperature.item(),
            depth=r.depth,
            candidates=r.candidates,
            candidate_top_p=r.candidate_top_p,
            floor=r.floor,
            normalize_layers=r.normalize_layers,
            layers="release" if r.release_layers else "paper",
            gate=r.gate.name.lower(),
            gate_value=r.gate_value,
            greedy=r.greedy,
            random_gate=r.random_gate,
            norm=rms_norm if r.final_norm else None,
            logit_scale=self.logit_scale,
            softcap=self.softcap,
        )


# What `step_for` makes where nobody says; the fixture `each_path` changes it.
path = "torch"


def step_for(case: Case, name: str | None = None, **options) -> Step:  # type: ignore[no-untyped-def]
    """A step for the case's LM head, or for `head`; the other options are those of `prepare`.

    name: `torch`, `cpu` or `triton`; for the last one, `limits` replaces those of the case.
    """
    name = name or path
    head = options.pop("head", None) or case.head()
    if name == "triton":
        return TritonStep(head, options.pop("limits", None) or case.launch_limits(), **options)
    if name == "torch":
        return EagerStep(head, **options)
    from led_sglang.kernels.cpu import CpuStep

    return CpuStep(head, **options)


def random_request(rng: random.Random) -> Request:
    greedy = rng.random() < 0.2
    gate = rng.choice(list(Gate))
    value = {Gate.ENTROPY: rng.choice([0.5, 2.0]), Gate.RATE: rng.choice([0.3, 0.7])}
    return Request(
        temperature=1.0 if greedy else rng.choice([0.05, 0.6, 2.0]),
        greedy=greedy,
        depth=rng.choice([1, 2, 8, 16]),
        candidates=rng.choice([1, 8, 20, 64]),
        candidate_top_p=rng.choice([1.0, 1.0, 0.95, 0.5]),
        floor=rng.choice([0.0, 0.0, 1e-6, 1e-3]),
        final_norm=rng.random() < 0.3,
        normalize_layers=rng.random() < 0.3,
        release_layers=rng.random() < 0.5,
        gate=gate,
        gate_value=value.get(gate, 0.0),
        random_gate=rng.random() < 0.5,
        thinks=rng.random() < 0.9,
        owns=rng.random() < 0.9,
        projects=rng.random() < 0.7,
    )


def random_case(
    seed: int,
    *,
    vocab: int,
    hidden: int,
    dtype: torch.dtype = torch.float32,
    batch: int = 12,
    requests: list[Request] | None = None,
    logit_scale: float | None = None,
    softcap: float | None = None,
) -> Case:
    """Logits whose spread grows with a row's temperature; rows differ in how sure they are.

    z / T stays below about 20: fp32 accumulation alone errs by a few 1e-7 of it, and that is the
    relative error of a probability.
    """
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    requests = requests or [random_request(rng) for _ in range(batch)]
    batch = len(requests)
    captured = max(r.depth for r in requests)
    spread = torch.tensor([r.temperature * rng.choice([1.0, 2.0, 4.0]) for r in requests])
    logits = torch.randn(batch, vocab, generator=generator) * spread[:, None]
    latents = torch.randn(batch, captured, hidden, generator=generator) * spread[:, None, None]
    weight = torch.randn(vocab, hidden, generator=generator) / hidden**0.5
    return Case(
        requests=requests,
        logits=logits.bfloat16() if seed % 2 else logits,
        latents=latents.to(dtype),
        weight=weight.to(dtype),
        logit_scale=logit_scale,
        softcap=softcap,
        seeds=torch.arange(batch) * 7919 + seed,
    )


def expected_decision(
    reference: LedReference, request: Request, gate_noise: float, pick_noise: Tensor
) -> tuple[bool, int, int]:
    """(explored, exploration depth, token) of one row, from the oracle and the row's noise."""
    probability = reference.explore_probability
    if request.greedy and not request.random_gate:
        explored = probability > 0.5
    else:
        explored = gate_noise < probability
    explored = explored and request.thinks and request.owns
    depth = reference.depth if explored else 1
    if request.greedy:
        return explored, depth, reference.greedy_token(explored)
    probs = reference.explore_probs if explored else reference.exploit_probs
    scores = [
        (torch.log(p) + g).item()
        for p, g in zip(probs, pick_noise[: len(probs)].double(), strict=True)
    ]
    return explored, depth, reference.candidate_ids[scores.index(max(scores))]


def exact_case(seed: int) -> Case:
    """Whole-numbered latents and weights: every product is exact in fp32, so nothing but the
    kernels' own order of work could make a difference."""
    case = random_case(seed, vocab=1009, hidden=72, dtype=torch.bfloat16, batch=6)
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randint(-2, 3, case.weight.shape, generator=generator)
    latents = torch.randint(-1, 2, case.latents.shape, generator=generator)
    return replace(case, weight=weight.bfloat16() / 4, latents=latents.bfloat16())


# What a step computes for each row; `gate_draw` is added by who drew the noise.
RESULT_TENSORS = [
    n for n in LedResult.__dataclass_fields__ if n not in ("projected_rows", "gate_draw")
]


def assert_same_row(
    case: Case, row: int, ours: LedResult, theirs: LedResult, *, alone: int = 0
) -> None:
    """Row ``alone`` of one result is row ``row`` of another, bit for bit, in its own k and d."""
    k, d = case.requests[row].candidates, case.requests[row].depth
    for name in RESULT_TENSORS:
        one, other = getattr(ours, name)[alone], getattr(theirs, name)[row]
        if name == "layer_probs":
            one, other = one[:d, :k], other[:d, :k]
        elif name in ("candidate_ids", "behaviour_probs"):
            one, other = one[:k], other[:k]
        assert torch.equal(one, other), (row, name)
