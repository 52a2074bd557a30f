"""The step that is compiled for a CPU, beside plain torch's; each_path covers the rest."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from kernel_cases import (
    Case,
    Request,
    assert_same_row,
    limits_of,
    random_case,
    rows_of,
    step_for,
)

from led_sglang.kernels import CannotServe, Gate, LedResult, NoiseStream, prepare
from led_sglang.kernels.cpu import step as cpu_step
from led_sglang.kernels.cpu.posterior import sum_exp, sum_weighted


@pytest.fixture(autouse=True)
def _compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernel_cases.path", "cpu")


def compiled(case: Case) -> LedResult:
    """All of the step, compiled, of a case with fp32 logits."""
    rows, limits, step = rows_of(case.requests), limits_of(case.requests), step_for(case)
    final = step.final_posterior(case.logits, rows, limits)
    no_seed = torch.ones(len(case.requests), dtype=torch.bool)
    noise = step.draw_noise(NoiseStream.start(0, "cpu"), case.seeds, no_seed, case.seeds, final.ids)
    return step.led_step(final, case.latents, rows, limits, noise)


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
    case = random_case(0, vocab=64, hidden=8, requests=[Request()])
    for _ in range(3):
        one = step_for(case).draw_noise(ours, seeds, has_seed, positions, ids)
        other = step_for(case, "torch").draw_noise(theirs, seeds, has_seed, positions, ids)
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
    final = step_for(case).final_posterior(case.logits, rows, limits)
    assert final.p1.tolist() == [1.0, 1.0]
    assert final.entropy.tolist() == [0.0, 0.0]
    assert final.ids[0].tolist() == [5, 0, 1, 2]
    assert final.ids[1].tolist() == [0, 1, 2, 3]


def test_logits_of_another_type_are_plain_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    kernel = cpu_step.posterior
    monkeypatch.setattr(cpu_step, "posterior", lambda **k: (calls.append("compiled"), kernel(**k)))
    case = random_case(0, vocab=64, hidden=8, requests=[Request()])
    rows, limits = rows_of(case.requests), limits_of(case.requests)
    step, torch_step = step_for(case), step_for(case, "torch")
    for logits, compiled_calls in ((case.logits, 1), (case.logits.bfloat16(), 1)):
        ours = step.final_posterior(logits, rows, limits)
        theirs = torch_step.final_posterior(logits, rows, limits)
        assert len(calls) == compiled_calls
        assert torch.equal(ours.ids, theirs.ids)
        torch.testing.assert_close(ours.logprobs, theirs.logprobs, rtol=1e-5, atol=1e-5)


def test_a_failing_compiler_leaves_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError("no space left")

    monkeypatch.setattr(cpu_step, "compile_all", fail)
    case = random_case(0, vocab=64, hidden=8, requests=[Request(gate=Gate.ALWAYS)])
    with pytest.warns(RuntimeWarning, match="OSError: no space left"):
        step = prepare(case.head(), case.launch_limits(), device=torch.device("cpu"))
    assert step.name == "torch"
    assert "no space left" in str(step.reason)
    rows, limits = rows_of(case.requests), limits_of(case.requests)
    final = step.final_posterior(case.logits, rows, limits)
    ours = step.led_step(final, case.latents, rows, limits, case.noise(final))
    theirs = case.step(name="torch")
    assert torch.equal(ours.token_ids, theirs.token_ids)
    assert torch.equal(ours.layer_probs, theirs.layer_probs)
    with pytest.warns(RuntimeWarning), pytest.raises(CannotServe, match="no space left"):
        step_for(case)


def test_other_types_are_refused_and_never_compiled() -> None:
    case = random_case(0, vocab=64, hidden=8, requests=[Request()])
    rows = replace(rows_of(case.requests), temperature=torch.ones(1, dtype=torch.float64))
    with pytest.raises(TypeError):
        step_for(case).final_posterior(case.logits, rows, limits_of(case.requests))


def test_code_on_disk_is_not_older_than_what_it_calls(tmp_path: Path) -> None:
    """Numba alone keeps `outer` as it was when a function in another file has changed."""
    package = tmp_path / "jitted"
    package.mkdir()
    source = Path(cpu_step.__file__).parent / "jit.py"
    (package / "jit.py").write_text(source.read_text())
    (package / "__init__.py").touch()
    outer = "from .jit import compiled\nfrom .inner import inner\n"
    outer += "@compiled\ndef outer(x):\n    return inner(x)\n"
    (package / "outer.py").write_text(outer)
    run = "import numba, jitted.jit; from jitted.outer import outer; "
    run += (
        "jitted.jit.compile_for(outer, numba.int64); print(outer(1), len(outer.stats.cache_hits))"
    )
    answers = []
    for number in (1, 1, 5):
        inner = f"from .jit import compiled\n@compiled\ndef inner(x):\n    return x + {number}\n"
        if not (package / "inner.py").exists() or (package / "inner.py").read_text() != inner:
            (package / "inner.py").write_text(inner)
        done = subprocess.run(
            [sys.executable, "-c", run], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        answers.append(done.stdout.split())
    # the second process finds the code on disk, the third one must not
    assert answers == [["2", "0"], ["2", "1"], ["6", "0"]]
