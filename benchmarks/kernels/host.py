"""Host time and launches of a step, without a GPU: ``python -m benchmarks.kernels host``.

Everything runs as in a server, from the engine's logits to the settled tokens: the think phase, the
method's step, what it leaves behind, the take-over. Only the last call into CUDA is a stub, and
torch's own operations work on the CPU. What a real launch costs comes on top.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from led_sglang.kernels import LaunchLimits, LmHeadShard, NoiseStream, TritonStep
from led_sglang.methods.base import LoadedModel, StepContext
from led_sglang.methods.led.params import MAX_CANDIDATES, LedParams
from led_sglang.methods.led.sampler import LedSampler
from led_sglang.methods.registry import METHODS
from led_sglang.methods.rows import Layout, Row, RowTable
from led_sglang.phase import PhaseTracker, StepInputs, ThinkAutomaton

from .problem import CANDIDATES, DEPTH, LAYERS, MODELS
from .stub_driver import Stub, stubbed

BATCHES = (1, 8, 64, 256)
_SLOTS = 512
# What makes a tensor or looks at one differently is no work of the device.
_NO_WORK = {"aten::detach", "aten::empty", "aten::new_empty", "aten::_unsafe_view"}


class Operations(TorchDispatchMode):
    """Names of the torch operations that would be launches on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if not func.is_view and func._schema.name not in _NO_WORK:
            self.names.append(func._schema.name)
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class HostCost:
    """One step of a batch.

    Attributes:
        batch: requests.
        microseconds: of the host, the least and the median of several rounds.
        kernels: launched, by name.
        operations: of torch that are launches, by name.
        encodes: of tensor maps.
    """

    batch: int
    microseconds: tuple[float, float]
    kernels: list[str]
    operations: list[str]
    encodes: int


class HostProblem:
    """LED on a server's step, its driver stubbed; every other request has a seed.

    Args:
        hidden, vocab: of the LM head.
        largest: batch that it is prepared for.
        candidates: the largest a request may ask for.
    """

    def __init__(
        self, hidden: int, vocab: int, largest: int, candidates: int = MAX_CANDIDATES
    ) -> None:
        # Never read: memory that is not touched costs nothing.
        head = LmHeadShard(torch.empty(vocab, hidden, dtype=torch.bfloat16), 0, vocab)
        limits = LaunchLimits(
            batch=largest,
            candidates=candidates,
            depth=DEPTH,
            vocab=vocab,
            captured=LAYERS,
            latents_dtype=torch.bfloat16,
            logits_dtypes=(torch.float32,),
        )
        self.step = TritonStep(head, limits)
        self.step.prewarm()
        self._hidden, self._vocab = hidden, vocab
        self._tracker = PhaseTracker(ThinkAutomaton((1,), (2, 3)), _SLOTS, vocab, "cpu")
        nothing = torch.zeros(1, dtype=torch.int64)
        self._sampler = LedSampler(
            LoadedModel(
                head=head,
                step=self.step,
                all_gather=None,
                shard_widths=(vocab,),
                noise=NoiseStream.start(0, "cpu"),
                place_of=nothing,
                think_end=nothing,
            )
        )

    def step_of(self, batch: int, *, regular: int = 0) -> Callable[[], None]:
        """A function that takes one step of so many LED requests, beside `regular` ones."""
        params = LedParams(depth=DEPTH, candidates=CANDIDATES)
        listed = [Row("led", params, seed=i if i % 2 else None) for i in range(batch)]
        listed += [Row()] * regular
        rows = len(listed)
        table = RowTable.build(listed, Layout.of(METHODS), "cpu", pin=False)
        places = torch.arange(rows)
        streams = torch.empty(rows, LAYERS * self._hidden, dtype=torch.bfloat16)
        logits, temperature = torch.empty(rows, self._vocab), torch.full((rows,), 0.6)
        token_ids = torch.zeros(rows, dtype=torch.int32)
        inputs = StepInputs(places, None)

        def take() -> None:
            context = StepContext(
                logits=logits,
                latents=streams.view(rows, LAYERS, self._hidden)[:, 0:],
                positions=places,
                slots=places,
                temperature=temperature,
                phase=self._tracker.begin(inputs),
                table=table,
            )
            picks = self._sampler.step(context)
            assert picks.settle is not None
            picks.settle(token_ids, True)

        return take


def cost(take: Callable[[], None], batch: int, stub: Stub, rounds: int, steps: int) -> HostCost:
    """What a step costs in the steady state."""
    take()
    stub.clear()
    with Operations() as operations:
        take()
    kernels, encodes = list(stub.names), stub.counts["encodes"]
    samples = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(steps):
            take()
        stub.clear()
        samples.append(1e6 * (time.perf_counter() - start) / steps)
    least, median = min(samples), statistics.median(samples)
    return HostCost(batch, (least, median), kernels, operations.names, encodes)


def main() -> None:
    """Print a line for each batch size."""
    torch.set_num_threads(1)
    model = MODELS["Qwen3-4B"]
    print("| batch | host us per step (least, median) | kernels | torch launches | encodes |")
    print("|---|---|---|---|---|")
    with stubbed() as stub, torch.inference_mode():
        problem = HostProblem(model.hidden, model.vocab, max(BATCHES), candidates=CANDIDATES)
        for batch in BATCHES:
            one = cost(problem.step_of(batch), batch, stub, rounds=60, steps=20)
            least, median = one.microseconds
            numbers = f"{len(one.kernels)} | {len(one.operations)} | {one.encodes}"
            print(f"| {batch} | {least:.0f}, {median:.0f} | {numbers} |", flush=True)
