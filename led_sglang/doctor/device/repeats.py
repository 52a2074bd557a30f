"""The same inputs give the same bits: step after step, whatever else is in the batch, replayed."""

from __future__ import annotations

import random
from dataclasses import fields

import torch
import triton
from torch import Tensor

from led_sglang.doctor.device.batch import mixed, run, take
from led_sglang.doctor.device.finding import Finding
from led_sglang.doctor.device.shape import Shape
from led_sglang.kernels import LedResult, NoiseStream, Step
from led_sglang.kernels.synthetic import SyntheticBatch

_TENSORS = [f.name for f in fields(LedResult) if f.name not in ("projected_rows", "gate_draw")]


def _outputs(step: Step, batch: SyntheticBatch, stream: NoiseStream | None = None) -> list[Tensor]:
    """Every tensor that a step decides, where it lies."""
    result = run(step, batch, stream)[2]
    return [getattr(result, name) for name in _TENSORS]


def _differs(ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
    """Whether any number does, on the device: nothing waits for it. NaN is a difference."""
    return torch.stack([(a != b).any() for a, b in zip(ours, theirs, strict=True)]).any()


def repeatability(step: Step, shape: Shape, weight: Tensor, steps: int) -> Finding:
    """Batches of several sizes by turns, in random order, must each repeat their first bits."""
    rng = random.Random(0)
    whole, parts = _parts_of(mixed(shape, weight), rng)
    parts = [(whole, list(range(len(whole.logits)))), *parts]
    expected = [[t.clone() for t in _outputs(step, batch)] for batch, _ in parts]
    different = torch.zeros((), dtype=torch.int64, device=weight.device)
    stream = NoiseStream.start(0, weight.device)
    for _ in range(steps):
        turn = rng.randrange(len(parts))
        different += _differs(_outputs(step, parts[turn][0], stream), expected[turn])
    wrong, sizes = int(different), sorted({len(places) for _, places in parts})
    figures = f"{steps:,} steps of {sizes[0]} to {sizes[-1]} requests in random order"
    if wrong:
        figures = f"{wrong:,} of {steps:,} steps gave other bits than before"
    return Finding("repeatable to the bit", wrong == 0, figures)


def independence(step: Step, shape: Shape, weight: Tensor) -> Finding:
    """Rows of a batch give the same bits in smaller ones, where other row tiles compute them.

    Not judged in Triton's interpreter, whose products are numpy's and depend on the batch.
    """
    whole, parts = _parts_of(mixed(shape, weight), random.Random(1))
    expected = [t.clone() for t in _outputs(step, whole)]
    wrong = sum(
        int(_differs(_outputs(step, batch), [t[places] for t in expected]))
        for batch, places in parts
    )
    said = f"{wrong} of {len(parts)} smaller batches" if wrong else "none of the smaller batches"
    judged = not (wrong and triton.knobs.runtime.interpret)
    return Finding(
        "rows alone", wrong == 0 if judged else None, f"{said} gave other bits for the same rows"
    )


def _parts_of(
    whole: SyntheticBatch, rng: random.Random
) -> tuple[SyntheticBatch, list[tuple[SyntheticBatch, list[int]]]]:
    """A batch, and random parts of it with the places of their rows."""
    count = len(whole.logits)
    places = [rng.sample(range(count), size) for size in (1, 1, 2, 4, 9, 18)]
    return whole, [(take(whole, part), part) for part in places]


def replay(step: Step, shape: Shape, weight: Tensor) -> Finding:
    """The step captured as a CUDA graph, replayed on other inputs, against the step itself."""
    if not weight.is_cuda:
        return Finding("graph replay", None, "there are no CUDA graphs on a CPU")
    first = mixed(shape, weight)
    count = len(first.logits)
    other = take(first, [(i + 5) % count for i in range(count)])
    expected = [t.clone() for t in _outputs(step, other)]
    stream = NoiseStream.start(0, weight.device)
    _outputs(step, first, stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = _outputs(step, first, stream)
    for own, others in ((first, other), (first.rows, other.rows)):
        for name, column in vars(own).items():
            if isinstance(column, Tensor):
                column.copy_(getattr(others, name))
    wrong = 0
    for _ in range(3):
        graph.replay()
        wrong += int(_differs(outputs, expected))
    said = "other bits than the step itself" if wrong else "the bits of the step itself"
    return Finding("graph replay", wrong == 0, f"3 replays on other inputs, {said}")
