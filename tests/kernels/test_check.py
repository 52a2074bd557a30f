"""The comparison of a step with plain torch finds what is wrong with a step, on every rank."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from kernel_cases import rms_norm
from kernel_ranks import Ranks

from led_sglang.kernels import EagerStep, LaunchLimits, LmHeadShard, NoiseStream, Step
from led_sglang.kernels.check import (
    Comparison,
    RanksApart,
    RanksTogether,
    compare,
)
from led_sglang.kernels.cpu import CpuStep
from led_sglang.kernels.cpu.step import compile_all
from led_sglang.kernels.synthetic import SyntheticBatch, own_logits, synthetic_batch

V, H = 501, 72


def limits(dtype: torch.dtype = torch.float32, depth: int = 8) -> LaunchLimits:
    return LaunchLimits(
        batch=64,
        candidates=64,
        depth=depth,
        vocab=V,
        captured=depth if depth > 1 else 0,
        latents_dtype=dtype,
        logits_dtypes=(torch.float32,),
    )


def head_of(dtype: torch.dtype = torch.float32) -> LmHeadShard:
    weight = torch.randn(V, H, generator=torch.Generator().manual_seed(5)) * 0.05
    return LmHeadShard(weight.to(dtype), 0, V)


def batch_of(head: LmHeadShard, most: LaunchLimits, **options: Any) -> SyntheticBatch:
    logits_of = own_logits(head)
    return synthetic_batch(most, H, logits_of, device=torch.device("cpu"), **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_right_step_is_told_from_torch_by_nothing(dtype: torch.dtype) -> None:
    head = head_of(dtype)
    step, torch_step = (make(head, final_norm=rms_norm) for make in (CpuStep, EagerStep))
    found = compare(step, torch_step, batch_of(head, limits(dtype)))
    assert found.finding is None
    # The rest hang by less than the two may differ.
    assert (found.rows, found.decided) >= (16, 10)


def test_the_batch_holds_what_requests_may_ask_for() -> None:
    head = head_of()
    batch = batch_of(head, limits())
    rows = batch.rows
    result = _run(EagerStep(head, final_norm=rms_norm), batch)
    assert set(rows.gate.tolist()) == set(range(5))
    for name in (
        *("greedy", "final_norm", "normalize_layers", "release_layers", "random_gate", "owns"),
        *("thinks", "projects"),
    ):
        assert len(getattr(rows, name).unique()) == 2, name
    for name, fewest in {
        "temperature": 4,
        "depth": 4,
        "candidates": 4,
        "candidate_top_p": 3,
    }.items():
        assert len(getattr(rows, name).unique()) >= fewest, name
    peaks = batch.logits.amax(1)
    assert peaks.max().item() == pytest.approx(25.0, abs=0.1)
    assert len(result.depth[result.explored].unique()) >= 3
    assert ((batch.latents @ head.weight.T).amax(2) > 5.0).all()  # type: ignore[union-attr]


def _run(step: Step, batch: SyntheticBatch) -> Any:
    final = step.final_posterior(batch.logits, batch.rows, batch.limits)
    stream = NoiseStream.start(0, "cpu")
    noise = step.draw_noise(stream, batch.seeds, batch.has_seed, batch.positions, final.ids)
    return step.led_step(final, batch.latents, batch.rows, batch.limits, noise)


class Wrong(EagerStep):
    """Plain torch with one mistake: `change` of what `method` returns."""

    name = "wrong"
    method = ""
    change: Callable[[Any], Any]

    def final_posterior(self, *given: Any) -> Any:  # type: ignore[override]
        final = EagerStep.final_posterior(*given)
        return self.change(final) if self.method == "final_posterior" else final

    def draw_noise(self, *given: Any) -> Any:  # type: ignore[override]
        noise = EagerStep.draw_noise(*given)
        return self.change(noise) if self.method == "draw_noise" else noise

    def led_step(self, *given: Any) -> Any:
        given = self.change(given) if self.method == "given" else given
        result = super().led_step(*given)
        return self.change(result) if self.method == "led_step" else result


def of(field: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Any], Any]:
    return lambda record: replace(record, **{field: change(getattr(record, field))})


def one(row: int, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The change in one row alone."""

    def changed(x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        x[row] = change(x[row])
        return x

    return changed


def shifted_layers(given: tuple[Any, ...]) -> tuple[Any, ...]:
    final, latents, *rest = given
    return (final, latents.roll(1, 1), *rest)


def raising(given: Any) -> Any:
    raise RuntimeError("out of registers\nat line 3")


WRONG = {
    "a neighbour's token": ("led_step", of("token_ids", lambda x: x.roll(1)), "token differs"),
    "the next token": (
        "led_step",
        of("token_ids", one(6, lambda x: x + 1)),
        "token differs in 1 of",
    ),
    "another gate": ("led_step", of("explored", one(0, torch.logical_not)), "explored differs"),
    "another depth": ("led_step", of("depth", one(6, lambda x: x + 1)), "depth differs"),
    "probabilities 1% off": ("led_step", of("layer_probs", lambda x: x * 1.01), "p of the layers"),
    "one number is NaN": (
        "led_step",
        of("layer_probs", one(6, lambda x: x * torch.nan)),
        "p of the",
    ),
    "log q is off": ("led_step", of("behaviour_logprob", lambda x: x + 0.1), "log q of the token"),
    "q of the exploiting side": ("led_step", of("behaviour_probs", torch.zeros_like), "q differs"),
    "candidates in another order": (
        "final_posterior",
        of("ids", lambda x: x.flip(1)),
        "candidates",
    ),
    "posteriors at T = 1": ("final_posterior", of("logprobs", lambda x: x * 0.6), "log p"),
    "p1 of another row": ("final_posterior", of("p1", lambda x: x.roll(1)), "p1 differs"),
    "a gate that draws alike": ("draw_noise", of("gate", torch.zeros_like), "gate's noise"),
    "noise by place": ("draw_noise", of("pick", lambda x: x.flip(1)), "tokens' noise"),
    "layers one off": ("given", shifted_layers, "p of the layers"),
    "an error": ("led_step", raising, "it raised RuntimeError: out of registers"),
    "a shape": ("led_step", of("depth", lambda x: x[:-1]), "shape (15,) where torch has (16,)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_step_is_found_and_said_what_differs(name: str) -> None:
    head = head_of()
    step = Wrong(head, final_norm=rms_norm)
    step.method, step.change, said = WRONG[name]  # type: ignore[misc]
    found = compare(step, EagerStep(head, final_norm=rms_norm), batch_of(head, limits()))
    assert said in str(found.finding)
    assert "\n" not in str(found.finding)


def test_a_step_that_hands_the_batch_to_torch_has_not_been_checked() -> None:
    head = head_of()
    step = EagerStep(head, final_norm=rms_norm, reason="latents are too long")
    found = compare(step, EagerStep(head, final_norm=rms_norm), batch_of(head, limits()))
    assert "latents are too long" in str(found.finding)


@pytest.mark.parametrize(("depth", "norm"), [(1, False), (2, True), (8, False)])
def test_small_servers_are_checked_too(depth: int, norm: bool) -> None:
    head, most = head_of(), replace(limits(depth=depth), batch=3, candidates=2)
    batch = batch_of(head, most, final_norm=norm)
    final_norm = rms_norm if norm else None
    step, torch_step = (make(head, final_norm=final_norm) for make in (CpuStep, EagerStep))
    assert compare(step, torch_step, batch).finding is None


def two_ranks(make: Callable[[int, LmHeadShard, Any], Step]) -> list[Comparison]:
    """What each of two ranks finds of the step that `make` builds of its rank, shard and gather."""
    compile_all()  # Numba: by one thread
    whole, group, votes = head_of(), Ranks(2), Ranks(2)
    assert whole.weight is not None
    batch, cut = batch_of(whole, limits()), 251
    shards = [
        LmHeadShard(whole.weight[:cut], 0, cut),
        LmHeadShard(whole.weight[cut:], cut, V - cut),
    ]
    found: dict[int, Comparison] = {}

    def rank(number: int) -> None:
        vote, gather = votes.all_gather(number), group.all_gather(number)
        ranks = RanksTogether(lambda ok: bool(vote(torch.tensor(ok)).all()))

        def together(x: torch.Tensor) -> torch.Tensor:
            ranks.arrive()
            return gather(x)

        trusted = EagerStep(shards[number], final_norm=rms_norm, all_gather=together)
        judged = make(number, shards[number], together)
        try:
            found[number] = ranks.run(lambda: compare(judged, trusted, batch))
        except RanksApart:
            found[number] = Comparison("apart", 0, 0)

    threads = [threading.Thread(target=rank, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    assert set(found) == {0, 1}, "a rank hangs"
    return [found[0], found[1]]


def test_two_right_ranks_agree() -> None:
    found = two_ranks(
        lambda rank, shard, gather: CpuStep(shard, final_norm=rms_norm, all_gather=gather)
    )
    assert [f.finding for f in found] == [None, None]


def test_a_shard_that_is_one_column_off_is_found_on_both_ranks() -> None:
    def make(rank: int, shard: LmHeadShard, gather: Any) -> Step:
        if rank == 1:
            shard = replace(shard, vocab_start=shard.vocab_start + 1)
        return CpuStep(shard, final_norm=rms_norm, all_gather=gather)

    for found in two_ranks(make):
        assert "p of the layers differs" in str(found.finding)


def test_a_wrong_token_on_one_rank_is_found_there() -> None:
    def make(rank: int, shard: LmHeadShard, gather: Any) -> Step:
        step = Wrong(shard, final_norm=rms_norm, all_gather=gather)
        step.method, step.change = "led_step" if rank else "", WRONG["a neighbour's token"][1]  # type: ignore[misc]
        return step

    first, second = two_ranks(make)
    assert first.finding is None
    assert "token differs" in str(second.finding)


class Deaf(EagerStep):
    """Leaves its rank's part of the all-gather out."""

    def led_step(self, final: Any, latents: Any, rows: Any, limits: Any, noise: Any) -> Any:
        return EagerStep(self._head, final_norm=rms_norm).led_step(
            final, latents, rows, limits, noise
        )


@pytest.mark.parametrize("fault", ["before", "step", "deaf", "twice"])
def test_ranks_do_not_wait_for_one_that_fails(fault: str) -> None:
    def make(rank: int, shard: LmHeadShard, gather: Any) -> Step:
        if rank and fault == "deaf":
            return Deaf(shard, final_norm=rms_norm, all_gather=gather)
        if rank and fault == "twice":
            return EagerStep(
                shard, final_norm=rms_norm, all_gather=lambda x: (gather(x), gather(x))[1]
            )
        step = Wrong(shard, final_norm=rms_norm, all_gather=gather)
        if rank:
            step.method = "final_posterior" if fault == "before" else "given"
            step.change = raising  # type: ignore[method-assign]
        return step

    first, second = two_ranks(make)
    assert second.finding is not None
    assert first.finding == (None if fault == "twice" else "apart")
