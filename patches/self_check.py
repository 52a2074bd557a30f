"""What every launch checks of the loaded model before the first request, on all ranks alike.

`CHECKS` lists them: each finds one thing that is wrong, or nothing, and says what is to serve
instead. docs/serving.md#the-self-check tells users.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from led_sglang.kernels import EagerStep, FinalNorm, LaunchLimits, LmHeadShard, Step
from led_sglang.kernels.check import RanksApart, RanksTogether, compare
from led_sglang.kernels.synthetic import SyntheticBatch, own_logits, synthetic_batch
from led_sglang.patches.lm_head import called_head
from led_sglang.patches.ranks import RankGather, on_every_rank
from led_sglang.settings import LaunchRefused

logger = logging.getLogger(__name__)

# Rows of the batch on a GPU; a CPU takes fewer where its head is so large that 2 s would not do.
_ROWS, _FEWEST_ROWS = 16, 4
_CPU_ELEMENTS = 3 * 2**30
# What a check needs at its worst moment: temporaries of plain torch, and copies of the logits.
_TEMPORARY_BYTES = 256 * 2**20
_BYTES_PER_LOGIT = 32
# SGLang rounds logits to the model's type, of their largest by 2^-8 in bfloat16.
_ROUNDING = 2.0**-6


@dataclass(frozen=True)
class Loaded:
    """This rank's part of a loaded model, as the steps will use it.

    Attributes:
        model: SGLang's, and `head` as LED reads its LM head.
        step: who will compute.
        limits: the largest step.
        hidden_size: H.
        gather: the step's collective; None without other ranks.
        group: `GroupCoordinator` of the ranks that sample the same rows.
    """

    model: Any
    head: LmHeadShard
    final_norm: FinalNorm
    step: Step
    limits: LaunchLimits
    hidden_size: int
    gather: RankGather | None
    group: Any
    device: torch.device

    def in_torch(self, reason: str) -> Loaded:
        """The same with plain torch for a step."""
        step = EagerStep(
            self.head, final_norm=self.final_norm, all_gather=self.gather, reason=reason
        )
        return replace(self, step=step)

    def through_sglang(self, reason: str) -> Loaded:
        """The same with SGLang's own logits in place of the head, and plain torch for a step."""
        return replace(self, head=called_head(self.model), gather=None).in_torch(reason)


@dataclass
class Inputs:
    """What the checks share; made by the first that asks, on every rank."""

    loaded: Loaded
    ranks: RanksTogether
    _batch: SyntheticBatch | None = None

    def batch(self) -> SyntheticBatch:
        """The batch; its final logits are SGLang's own."""
        if self._batch is not None:
            return self._batch
        loaded = self.loaded
        whole = called_head(loaded.model).project
        assert whole is not None

        def logits_of(hidden: torch.Tensor) -> torch.Tensor:
            self.ranks.arrive()  # SGLang gathers
            return whole(hidden)

        self._batch = synthetic_batch(
            loaded.limits,
            loaded.hidden_size,
            logits_of,
            device=loaded.device,
            rows=_rows(loaded),
        )
        return self._batch


@dataclass(frozen=True)
class Check:
    """One check of a launch.

    Attributes:
        find: one clause on what is wrong on this rank, or None; what it raises is wrong as well.
        instead: what serves on every rank then; None where nothing can: the launch ends.
    """

    find: Callable[[Loaded, Inputs], str | None]
    instead: Callable[[Loaded, str], Loaded] | None


@dataclass(frozen=True)
class Report:
    """For `/server_info`.

    Attributes:
        mode: `--led-self-check`.
        finding: one sentence; None where nothing was found.
        seconds: that it took.
    """

    mode: str
    finding: str | None = None
    seconds: float = 0.0

    def shown(self) -> dict[str, Any]:
        """As it appears there."""
        return asdict(self)


def memory(loaded: Loaded, inputs: Inputs) -> str | None:
    """Too little free memory for the check itself, on a GPU."""
    free = _free_bytes(loaded.device)
    needed = _TEMPORARY_BYTES + _BYTES_PER_LOGIT * _rows(loaded) * loaded.limits.vocab
    if free is None or free >= needed:
        return None
    return (
        f"it needs {needed / 2**20:.0f} MB of the GPU's memory and {free / 2**20:.0f} MB are free "
        "(a lower --mem-fraction-static leaves more)"
    )


def lm_head(loaded: Loaded, inputs: Inputs) -> str | None:
    """An LM head that LED reads otherwise than SGLang: its own logits tell."""
    head, batch = loaded.head, inputs.batch()
    logits = batch.logits
    inputs.ranks.arrive()
    shards = loaded.group.all_gather_object((head.vocab_start, head.valid))
    end = 0
    for rank, (start, valid) in enumerate(shards):
        if valid and start != end:
            return f"the LM head's shard of rank {rank} begins at column {start} instead of {end}"
        end += valid
    if end != logits.shape[1]:
        return f"LED reads {end} columns of the LM head, and SGLang {logits.shape[1]}"
    ours = own_logits(head)(batch.hidden)
    theirs = logits[:, head.vocab_start : head.vocab_start + head.valid].float()
    bound = _ROUNDING * logits.float().abs().amax(1, keepdim=True)
    wrong = ~((ours - theirs).abs() <= bound)
    if not bool(wrong.any()):
        return None
    row, column = (int(i) for i in wrong.nonzero()[0])
    return (
        f"LED reads the LM head otherwise than SGLang: logit {ours[row, column].item():.6g} where "
        f"SGLang has {theirs[row, column].item():.6g}, in column {head.vocab_start + column}"
    )


def led_step(loaded: Loaded, inputs: Inputs) -> str | None:
    """A compiled step that is not plain torch's; plain torch itself is the reference."""
    if loaded.step.name == EagerStep.name:
        return None
    trusted = loaded.in_torch("the reference").step
    found = compare(loaded.step, trusted, inputs.batch())
    return found.finding and f"the {loaded.step.name} step is wrong ({found.finding})"


CHECKS = (
    Check(memory, Loaded.in_torch),
    Check(lm_head, Loaded.through_sglang),
    Check(led_step, Loaded.in_torch),
)


@torch.no_grad()
def self_check(
    loaded: Loaded, mode: str, checks: Sequence[Check] = CHECKS
) -> tuple[Loaded, Report]:
    """Run the checks on every rank until one finds something; all ranks do the same then.

    Args:
        mode: `on`, `strict` or `off`.

    Returns:
        What serves, and what to tell of it.

    Raises:
        LaunchRefused: something was found, and the mode is strict or nothing else can serve.
    """
    if mode == "off":
        return loaded, Report(mode)
    start = time.perf_counter()
    ranks = RanksTogether(on_every_rank(loaded.group))
    inputs = Inputs(loaded, ranks)
    finding = None
    for check in checks:
        finding = _everyones_finding(check, loaded, inputs)
        if finding is None:
            continue
        finding = f"the self-check at launch found{finding}"
        if mode == "strict" or check.instead is None:
            raise LaunchRefused(
                f"{finding}; start without LED (--sampler regular)"
                + ("" if check.instead is None else ", or with --led-self-check on: torch serves")
            )
        loaded = check.instead(loaded, finding)
        if loaded.group.rank_in_group == 0:
            logger.warning("LED steps run in torch: %s.", finding)
        break
    del inputs
    if loaded.device.type == "cuda":
        torch.cuda.empty_cache()
    if loaded.step.projected is not None:
        loaded.step.projected.zero_()  # for no request
    return loaded, Report(mode, finding, round(time.perf_counter() - start, 3))


def _everyones_finding(check: Check, loaded: Loaded, inputs: Inputs) -> str | None:
    """The first finding of any rank, with its rank; the same on all of them."""
    finding: str | None
    try:
        with _gathering_together(loaded.gather, inputs.ranks):
            finding = inputs.ranks.run(lambda: check.find(loaded, inputs))
    except RanksApart:
        finding = None  # the rank that failed has one
    except Exception as error:  # drivers and allocators raise their own
        lines = str(error).splitlines() or [""]
        finding = f"{type(error).__name__} in the check itself: {lines[0]}"
    everyone = loaded.group.all_gather_object(finding)
    for rank, theirs in enumerate(everyone):
        if theirs is not None:
            return f" on rank {rank}: {theirs}" if len(everyone) > 1 else f": {theirs}"
    return None


@contextmanager
def _gathering_together(gather: RankGather | None, ranks: RanksTogether) -> Iterator[None]:
    """No rank enters the step's collective unless all of them do."""
    if gather is None:
        yield
        return
    gather.before = ranks.arrive
    try:
        yield
    finally:
        gather.before = None


def _rows(loaded: Loaded) -> int:
    if loaded.device.type != "cpu":
        return _ROWS
    elements = max(loaded.head.valid * loaded.hidden_size, 1)
    return min(_ROWS, max(_FEWEST_ROWS, _CPU_ELEMENTS // elements))


def _free_bytes(device: torch.device) -> int | None:
    """Free memory of a GPU; None elsewhere."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
