"""The self-check of a launch: what it finds, what serves then, and that no rank waits for ever."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from led_sglang.kernels import EagerStep, LaunchLimits, LmHeadShard, NoiseStream
from led_sglang.kernels.cpu import CpuStep
from led_sglang.kernels.cpu.step import compile_all
from led_sglang.kernels.synthetic import own_logits, synthetic_batch
from led_sglang.patches import self_check as module
from led_sglang.patches.ranks import RankGather
from led_sglang.patches.self_check import Check, Loaded, Report, self_check
from led_sglang.settings import LaunchRefused

V, H, CUT = 501, 72, 251
WEIGHT = (torch.randn(V, H, generator=torch.Generator().manual_seed(5)) * 0.05).bfloat16()
LIMITS = LaunchLimits(
    batch=64,
    candidates=64,
    depth=8,
    vocab=V,
    captured=8,
    latents_dtype=torch.bfloat16,
    logits_dtypes=(torch.float32,),
)


class Group:
    """SGLang's `GroupCoordinator` among threads; a rank that is left alone raises after 20 s."""

    def __init__(self, world: int) -> None:
        self.world_size = world
        self._barrier = threading.Barrier(world, timeout=20)
        self._sent: list[Any] = [None] * world
        self._local = threading.local()

    @property
    def rank_in_group(self) -> int:
        rank: int = self._local.rank
        return rank

    @rank_in_group.setter
    def rank_in_group(self, rank: int) -> None:
        self._local.rank = rank

    def all_gather_object(self, sent: Any) -> list[Any]:
        self._sent[self.rank_in_group] = sent
        self._barrier.wait()
        everyone = list(self._sent)
        self._barrier.wait()
        return everyone

    def _all_gather_into_tensor(self, output: Tensor, local: Tensor) -> None:
        output.copy_(torch.cat(self.all_gather_object(local.clone())))


def norm(x: Tensor) -> Tensor:
    return (x.float() * (x.float().square().mean(-1, keepdim=True) + 1e-6).rsqrt()).to(x.dtype)


def engine_logits(hidden: Tensor, *_: Any, **__: Any) -> Tensor:
    """SGLang's, rounded to the model's type."""
    return (hidden @ WEIGHT.T).float()


MODEL: Any = SimpleNamespace(
    logits_processor=SimpleNamespace(_get_logits=engine_logits, vocab_size=V),
    lm_head=None,
    config=None,
)
# What a test does to a rank's shard and step.
Plant = Callable[[int, LmHeadShard, dict[str, Any]], tuple[LmHeadShard, Any]]


def rightly(rank: int, shard: LmHeadShard, options: dict[str, Any]) -> tuple[LmHeadShard, Any]:
    return shard, CpuStep(shard, **options)


def loaded(rank: int, group: Group, plant: Plant) -> Loaded:
    shard = LmHeadShard(WEIGHT, 0, V)
    if group.world_size == 2:
        shard = LmHeadShard(WEIGHT[CUT:], CUT, V - CUT) if rank else LmHeadShard(WEIGHT, 0, CUT)
    gather = RankGather(group) if group.world_size > 1 else None
    shard, step = plant(rank, shard, {"final_norm": norm, "all_gather": gather})
    return Loaded(MODEL, shard, norm, step, LIMITS, H, gather, group, torch.device("cpu"))


def launch(world: int, plant: Plant, mode: str = "on", **options: Any) -> list[Any]:
    """What `self_check` makes of each rank: its result, or what it raises."""
    compile_all()  # Numba: by one thread
    group, outcomes = Group(world), {}

    def run(rank: int) -> None:
        group.rank_in_group = rank
        try:
            outcomes[rank] = self_check(loaded(rank, group, plant), mode, **options)
        except LaunchRefused as refusal:
            outcomes[rank] = refusal
        if world > 1 and not isinstance(outcomes[rank], LaunchRefused):
            # What serves computes with the other ranks as always.
            outcomes[rank] = (*outcomes[rank], tokens(outcomes[rank][0]))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert set(outcomes) == set(range(world)), "a rank hangs"
    return [outcomes[rank] for rank in range(world)]


def tokens(loaded: Loaded) -> Tensor:
    """Those of a batch with logits of the whole head."""
    whole = own_logits(LmHeadShard(WEIGHT, 0, V))
    batch = synthetic_batch(LIMITS, H, whole, device=loaded.device)
    final = loaded.step.final_posterior(batch.logits, batch.rows, batch.limits)
    stream = NoiseStream.start(1, "cpu")
    noise = loaded.step.draw_noise(stream, batch.seeds, batch.has_seed, batch.positions, final.ids)
    result = loaded.step.led_step(final, batch.latents, batch.rows, batch.limits, noise)
    return result.token_ids


def one_rank() -> Loaded:
    group = Group(1)
    group.rank_in_group = 0
    return loaded(0, group, rightly)


class NeighboursToken(CpuStep):
    def led_step(self, *given: Any) -> Any:
        result = super().led_step(*given)
        return replace(result, token_ids=result.token_ids.roll(1))


class Raises(CpuStep):
    def led_step(self, *given: Any) -> Any:
        raise RuntimeError("illegal instruction")


def on_rank(wrong: int, step: type[CpuStep]) -> Plant:
    def plant(rank: int, shard: LmHeadShard, options: dict[str, Any]) -> tuple[LmHeadShard, Any]:
        return shard, (step if rank == wrong else CpuStep)(shard, **options)

    return plant


def misread(change: Callable[[LmHeadShard], LmHeadShard], wrong: int = 0) -> Plant:
    """LED as a whole takes another shard than SGLang has on a rank."""

    def plant(rank: int, shard: LmHeadShard, options: dict[str, Any]) -> tuple[LmHeadShard, Any]:
        shard = change(shard) if rank == wrong else shard
        return shard, CpuStep(shard, **options)

    return plant


def rolled(shard: LmHeadShard) -> LmHeadShard:
    assert shard.weight is not None
    return replace(shard, weight=shard.weight.roll(1, 0))


@pytest.mark.parametrize("world", [1, 2])
def test_a_right_launch_is_left_as_it_is(world: int, caplog: pytest.LogCaptureFixture) -> None:
    for outcome in launch(world, rightly):
        served, report = outcome[:2]
        assert (served.step.name, served.step.reason) == ("cpu", None)
        assert (report.mode, report.finding) == ("on", None)
        assert 0.0 < report.seconds < 2.0
    assert not caplog.records


FAULTS: dict[str, tuple[Plant, Plant, str]] = {
    "another token": (
        on_rank(0, NeighboursToken),
        on_rank(1, NeighboursToken),
        "the cpu step is wrong (token differs in",
    ),
    "an error": (
        on_rank(0, Raises),
        on_rank(1, Raises),
        "the cpu step is wrong (it raised RuntimeError: illegal instruction)",
    ),
    "weights one column off": (
        misread(rolled),
        misread(rolled, 1),
        "LED reads the LM head otherwise than SGLang: logit",
    ),
    "a column too few": (
        misread(lambda s: replace(s, valid=s.valid - 1)),
        misread(lambda s: replace(s, valid=s.valid - 1), 1),
        "LED reads 500 columns of the LM head, and SGLang 501",
    ),
    "a shard that begins one column late": (
        misread(lambda s: replace(s, vocab_start=s.vocab_start + 1)),
        misread(lambda s: replace(s, vocab_start=s.vocab_start + 1), 1),
        "begins at column",
    ),
    "a scale left out": (
        misread(lambda s: replace(s, logit_scale=0.9)),
        misread(lambda s: replace(s, logit_scale=0.9), 1),
        "LED reads the LM head otherwise than SGLang: logit",
    ),
}


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_found_and_torch_serves_rightly(
    fault: str, world: int, caplog: pytest.LogCaptureFixture
) -> None:
    *plants, said = FAULTS[fault]
    outcomes = launch(world, plants[world - 1])
    expected = tokens(one_rank())
    for outcome in outcomes:
        served, report = outcome[:2]
        assert served.step.name == "torch"
        assert said in str(report.finding)
        assert served.step.reason == report.finding
        assert torch.equal(tokens(served) if world == 1 else outcome[2], expected)
    assert len({outcome[1].finding for outcome in outcomes}) == 1
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert said in record.getMessage()
    assert record.getMessage().startswith("LED steps run in torch: the self-check at launch found")
    if world == 2 and "begins" not in said and "columns" not in said:
        assert "on rank 1" in record.getMessage()


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("fault", ["another token", "a column too few"])
def test_a_strict_launch_ends_on_every_rank(fault: str, world: int) -> None:
    *plants, said = FAULTS[fault]
    for refusal in launch(world, plants[world - 1], "strict"):
        assert isinstance(refusal, LaunchRefused)
        assert said in str(refusal)
        assert "--sampler regular" in str(refusal)
        assert "\n" not in str(refusal)


def test_off_checks_nothing() -> None:
    ((served, report),) = launch(1, on_rank(0, NeighboursToken), "off")
    assert served.step.name == "cpu"
    assert report == Report("off")


def test_a_check_that_nothing_can_stand_in_for_ends_the_launch() -> None:
    check = Check(lambda loaded, inputs: "layers are captured at another place", None)
    for refusal in launch(2, rightly, checks=(check,)):
        assert isinstance(refusal, LaunchRefused)
        assert "captured at another place" in str(refusal)


def test_a_check_that_fails_on_one_rank_holds_up_none() -> None:
    def find(loaded: Loaded, inputs: Any) -> None:
        if loaded.group.rank_in_group == 1:
            raise MemoryError("no room\nat all")
        inputs.ranks.arrive()
        loaded.group.all_gather_object(None)

    for served, report, _ in launch(2, rightly, checks=(Check(find, Loaded.in_torch),)):
        assert served.step.name == "torch"
        assert "on rank 1: MemoryError in the check itself: no room" in report.finding


def test_too_little_free_memory_is_said_and_torch_serves(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_free_bytes", lambda device: 20 * 2**20)
    for served, _, _ in launch(2, rightly):
        assert served.step.name == "torch"
    (record,) = caplog.records
    assert "needs 256 MB of the GPU's memory and 20 MB are free" in record.getMessage()


def test_plain_torch_is_the_reference_and_its_head_is_checked(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def in_torch(rank: int, shard: LmHeadShard, options: dict[str, Any]) -> tuple[LmHeadShard, Any]:
        return shard, EagerStep(shard, **options, reason="too old")

    ((served, report),) = launch(1, in_torch)
    assert (served.step.reason, report.finding) == ("too old", None)
    plant = misread(rolled)
    ((served, report),) = launch(1, lambda *given: in_torch(0, plant(*given)[0], given[2]))
    assert "otherwise than SGLang" in served.step.reason
