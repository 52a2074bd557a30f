"""The step that is compiled for a CPU, beside plain torch's; each_path covers the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from kernel_cases import Case, Request, assert_same_row, limits_of, random_case, rows_of
from led_sglang.kernels import (
    Gate,
    NoiseStream,
    draw_noise,
    final_posterior,
    led_step,
)
from led_sglang.kernels.types import LedResult

from led_sglang import cpu_kernels
from led_sglang.cpu_kernels import readiness
from led_sglang.cpu_kernels.softmax import sum_exp, sum_weighted


@pytest.fixture(autouse=True)
def _ready() -> Iterator[None]:
    assert cpu_kernels.prewarm() is None
    yield
    cpu_kernels.withdraw()


def compiled(case: Case) -> LedResult:
    """All of the step, compiled, of a case with fp32 logits."""
    rows, limits = rows_of(case.requests), limits_of(case.requests)
    final = final_posterior(case.logits, rows, limits, impl="cpu")
    no_seed = torch.ones(len(case.requests), dtype=torch.bool)
    stream = NoiseStream.start(0, "cpu")
    noise = draw_noise(stream, case.seeds, no_seed, case.seeds, final.ids, impl="cpu")
    return led_step(final, case.latents, rows, limits, case.head(), noise, impl="cpu")


@pytest.mark.parametrize("vocab", [257, 5003])
def test_a_row_owes_nothing_to_its_batch(vocab: int) -> None:
    """Where the head is small no product is a matrix library's: not even rounding may differ."""
    requests = [
        Request(gate=Gate.ALWAYS, depth=depth, candidates=k, temperature=t)
        for depth, k, t in [(8, 8, 0.6), (3, 20, 1.0), (8, 64, 0.3), (2, 1, 2.0), (8, 7, 0.9)]
    ]
    case = random_case(2, vocab=vocab, hidden=24, dtype=torch.bfloat16, requests=requests)
    together = compiled(case)
    assert bool(together.explored.all())
    for row in range(len(requests)):
        assert_same_row(case, row, compiled(case.only(row)), together)


def test_noise_is_that_of_the_torch_path() -> None:
    seeds = torch.tensor([0, -1, 2**63 - 1, 7, -(2**40)])
    has_seed = torch.tensor([True, True, True, False, False])
    positions = torch.tensor([0, 5, 2**31, 9, 11])
    ids = torch.randint(0, 2**18, (5, 9), generator=torch.Generator().manual_seed(0))
    ours, theirs = (NoiseStream.start(2**64 - 3, "cpu") for _ in range(2))
    for _ in range(3):
        one = draw_noise(ours, seeds, has_seed, positions, ids, impl="cpu")
        other = draw_noise(theirs, seeds, has_seed, positions, ids, impl="torch")
        assert torch.equal(one.gate, other.gate)
        torch.testing.assert_close(one.pick, other.pick, rtol=1e-14, atol=1e-14)
    assert torch.equal(ours.step, theirs.step)


def test_exponentials_keep_the_budget() -> None:
    x = torch.linspace(-60.0, 0.0, 100_003)
    exact = x.double().exp().sum().item()
    top, one = np.float32(0.0), np.float32(1.0)
    assert sum_exp(x.numpy(), top, one) == pytest.approx(exact, rel=1e-6)
    exact = (x.double().exp() * x.double()).sum().item()
    assert sum_weighted(x.numpy(), top, one) == pytest.approx(exact, rel=1e-6)
    # one by one: no error hides in a sum
    for value in [-86.9, -20.0, -1e-3, 0.0]:
        row = torch.tensor([value])
        exact = row.double().exp().item()
        assert sum_exp(row.numpy(), top, one) == pytest.approx(exact, rel=3e-7)
    assert np.isnan(sum_exp(torch.tensor([torch.nan]).numpy(), top, one))


def test_softmax_of_far_apart_and_impossible_logits() -> None:
    case = random_case(0, vocab=64, hidden=8, requests=[Request(candidates=4)] * 2)
    case.logits[0] = -torch.inf
    case.logits[0, 5] = 1000.0
    case.logits[1, :] = torch.arange(64.0) * -1e4
    rows, limits = rows_of(case.requests), limits_of(case.requests)
    final = final_posterior(case.logits, rows, limits, impl="cpu")
    assert final.p1.tolist() == [1.0, 1.0]
    assert final.entropy.tolist() == [0.0, 0.0]
    assert final.ids[0].tolist() == [5, 0, 1, 2]
    assert final.ids[1].tolist() == [0, 1, 2, 3]


def test_auto_is_compiled_only_while_it_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    module = readiness.compiled_step()
    monkeypatch.setattr(module, "final_posterior", lambda *_: seen.append("compiled"))
    case = random_case(0, vocab=64, hidden=8, requests=[Request()])
    rows, limits = rows_of(case.requests), limits_of(case.requests)
    final_posterior(case.logits, rows, limits)
    # other types are the torch path's
    final_posterior(case.logits.bfloat16(), rows, limits)
    assert seen == ["compiled"]
    cpu_kernels.withdraw()
    final_posterior(case.logits, rows, limits)
    assert seen == ["compiled"]
    with pytest.raises(ValueError, match="no step is compiled for a CPU"):
        final_posterior(case.logits, rows, limits, impl="cpu")


def test_a_failing_compiler_leaves_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError("no space left")

    cpu_kernels.withdraw()
    monkeypatch.setattr(readiness, "compiled_step", fail)
    with pytest.warns(RuntimeWarning, match="OSError: no space left"):
        assert "no space left" in str(cpu_kernels.prewarm())
    case = random_case(0, vocab=64, hidden=8, requests=[Request()])
    assert case.step().token_ids.shape == (1,)


def test_other_types_are_refused_and_never_compiled() -> None:
    case = random_case(0, vocab=64, hidden=8, requests=[Request()])
    rows = replace(rows_of(case.requests), temperature=torch.ones(1, dtype=torch.float64))
    with pytest.raises(TypeError):
        final_posterior(case.logits, rows, limits_of(case.requests), impl="cpu")
