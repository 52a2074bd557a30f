"""A captured step, noise included: replays read new inputs, draw fresh noise, take padded rows."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from kernel_cases import Request, random_case, rows_of
from replay import capture
from torch import Tensor
from triton_cases import DEVICE, moved, prepared

from led_sglang.kernels import (
    Gate,
    LedLimits,
    LedResult,
    LedRows,
    NoiseStream,
    StepNoise,
    TritonStep,
)

V, H = 257, 40
BUCKET = 4
LIMITS = LedLimits(candidates=8, depth=4, final_norm=True, entropy=True)

# What a server puts into the rows of a bucket that hold no request.
PADDING = Request(owns=False, thinks=False, depth=1, candidates=1, temperature=1.0)
REQUESTS = [
    Request(gate=Gate.ALWAYS, depth=4),
    Request(gate=Gate.CONFIDENCE, depth=3, candidates=5, final_norm=True, projects=True),
    Request(gate=Gate.RATE, gate_value=0.5, depth=4, release_layers=True, projects=True),
]


@dataclass
class Inputs:
    """Everything a step reads, in memory that stays."""

    logits: Tensor
    latents: Tensor
    rows: LedRows
    seeds: Tensor
    has_seed: Tensor
    positions: Tensor

    def take(self, other: Inputs) -> None:
        for name in ("logits", "latents", "seeds", "has_seed", "positions"):
            getattr(self, name).copy_(getattr(other, name))
        for field in fields(LedRows):
            getattr(self.rows, field.name).copy_(getattr(other.rows, field.name))


def inputs(seed: int, requests: list[Request], seeded: list[bool]) -> Inputs:
    case = random_case(seed, vocab=V, hidden=H, dtype=torch.bfloat16, requests=REQUESTS[:1] * 4)
    count = len(requests)
    return Inputs(
        case.logits[:count].float().to(DEVICE, copy=True),
        case.latents[:count].to(DEVICE, copy=True),
        moved(rows_of(requests), DEVICE),
        torch.arange(seed, seed + count, device=DEVICE),
        torch.tensor(seeded, device=DEVICE),
        torch.full((count,), 40 + seed, device=DEVICE),
    )


WEIGHT = random_case(1, vocab=V, hidden=H, dtype=torch.bfloat16, requests=REQUESTS).weight.to(
    DEVICE
)


def prepared_step() -> TritonStep:
    case = random_case(1, vocab=V, hidden=H, dtype=torch.bfloat16, requests=REQUESTS[:1] * BUCKET)
    return prepared(replace(case, weight=WEIGHT), limits=case.launch_limits())


def take(step: TritonStep, x: Inputs, stream: NoiseStream) -> tuple[LedResult, StepNoise]:
    final = step.final_posterior(x.logits, x.rows, LIMITS)
    noise = step.draw_noise(stream, x.seeds, x.has_seed, x.positions, final.ids)
    result = step.led_step(final, x.latents, x.rows, LIMITS, noise)
    assert step.reason is None
    return result, noise


def stream_at(steps: int) -> NoiseStream:
    stream = NoiseStream.start(5, DEVICE)
    stream.step.fill_(steps)
    return stream


def assert_equal_rows(ours: LedResult, theirs: LedResult, rows: int) -> None:
    for field in fields(LedResult):
        one, other = getattr(ours, field.name), getattr(theirs, field.name)
        if isinstance(one, Tensor):
            assert torch.equal(one[:rows], other[:rows]), field.name


def test_a_replay_equals_an_eager_step_on_the_same_inputs() -> None:
    stream, step = stream_at(0), prepared_step()
    static = inputs(1, [PADDING] * BUCKET, [False] * BUCKET)
    (result, _), replay = capture(lambda: take(step, static, stream))
    for seed in (2, 3):
        stream.step.fill_(10 * seed)
        now = inputs(seed, [*REQUESTS, REQUESTS[0]], [True, False, False, True])
        static.take(now)
        replay()
        replayed = moved(result, DEVICE)
        assert_equal_rows(replayed, take(step, now, stream_at(10 * seed))[0], BUCKET)
        assert replayed.explored[0]


def test_a_bucket_with_empty_rows_serves_its_requests_bit_for_bit() -> None:
    stream, step = stream_at(0), prepared_step()
    static = inputs(1, [PADDING] * BUCKET, [False] * BUCKET)
    (result, _), replay = capture(lambda: take(step, static, stream))
    stream.step.fill_(7)
    static.take(inputs(4, [*REQUESTS, PADDING], [True, False, False, False]))
    replay()
    replayed = moved(result, DEVICE)
    assert not replayed.explored[3]
    alone = take(step, inputs(4, REQUESTS, [True, False, False]), stream_at(7))[0]
    assert_equal_rows(replayed, alone, len(REQUESTS))


def test_replays_draw_fresh_noise_but_for_seeded_rows() -> None:
    stream, step = stream_at(0), prepared_step()
    requests = [replace(REQUESTS[0], temperature=2.0)] * BUCKET
    static = inputs(1, requests, [True, False, False, False])
    (result, noise), replay = capture(lambda: take(step, static, stream))
    drawn, tokens = [], []
    for _ in range(6):
        replay()
        drawn.append(torch.cat([noise.gate[:, None], noise.pick], dim=1).cpu())
        tokens.append(result.token_ids.cpu().clone())
    together = torch.stack(drawn)
    assert (together[:, 0] == together[0, 0]).all()
    for row in range(1, BUCKET):
        assert len(together[:, row].unique()) == together[:, row].numel()
    picks = torch.stack(tokens)
    assert len(picks[:, 0].unique()) == 1
    assert len(picks[:, 1:].unique(dim=0)) > 1
