"""Nothing in a step asks the device for a value, so the host never waits for it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from kernel_cases import limits_of, random_case, rows_of, step_for
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode

from led_sglang.kernels import LmHeadShard, NoiseStream

pytestmark = pytest.mark.usefixtures("each_path")

AS_SCALAR = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default}
BY_MASK = {
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put.default,
    torch.ops.aten.index_put_.default,
    torch.ops.aten.masked_select.default,
}


class NoSync(TorchDispatchMode):
    """Refuses .item(), bool(), indexing with a boolean mask, and copies from a GPU to the CPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        assert func not in AS_SCALAR, f"{func} reads a value back"
        if func in BY_MASK:
            index = args[1] if isinstance(args[1], list | tuple) else [args[1]]
            masks = [i for i in index if i is not None and i.dtype in (torch.bool, torch.uint8)]
            assert not masks, f"{func} with a boolean mask"
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default:
            assert not args[0].is_cuda or out.is_cuda, "copied to the host"
        return out


def whole_step(device: str, *, project: bool) -> None:
    """Noise, posterior and step of a mixed batch whose tensors are made on ``device``."""
    case = random_case(0, vocab=257, hidden=33, dtype=torch.bfloat16)
    limits = limits_of(case.requests)
    rows = rows_of(case.requests)
    rows = replace(rows, **{name: value.to(device) for name, value in vars(rows).items()})
    weight = case.weight.to(device)
    head = LmHeadShard(weight, 0, 257)
    if project:
        head = LmHeadShard(None, 0, 257, project=lambda x: x @ weight.t())
    stream = NoiseStream(*(torch.zeros(1, dtype=torch.int64, device=device) for _ in range(2)))
    options = {"final_norm": lambda x: x * 2, "all_gather": lambda x: torch.stack([x])}
    # What serves a CPU alone is not asked on a GPU.
    name = "torch" if device == "cuda" else None
    step = step_for(case, name, head=head, **options)
    final = step.final_posterior(case.logits.to(device), rows, limits)
    seeds = case.seeds.to(device)
    noise = step.draw_noise(stream, seeds, seeds > 5, seeds, final.ids)
    result = step.led_step(final, case.latents.to(device), rows, limits, noise)
    assert result.token_ids.shape == (len(case.requests),)
    assert result.token_ids.device.type == device
    assert (result.projected_rows is None) == (device == "cuda")


@pytest.mark.parametrize("project", [False, True])
def test_cpu_step_reads_no_value_back(project: bool) -> None:
    with NoSync():
        whole_step("cpu", project=project)


@pytest.mark.parametrize("project", [False, True])
def test_cuda_step_has_static_shapes(project: bool) -> None:
    """Fake CUDA tensors have no values: whatever needs one raises. No GPU is needed."""
    with FakeTensorMode(), NoSync():
        whole_step("cuda", project=project)


def test_the_guards_would_notice() -> None:
    x = torch.arange(3.0)
    for read in (lambda: x.sum().item(), lambda: bool(x[0]), lambda: x[x > 1]):
        with NoSync(), pytest.raises(AssertionError):
            read()
    with FakeTensorMode():
        fake = torch.ones(3, device="cuda")
        with pytest.raises(DynamicOutputShapeException):
            fake.nonzero()
        with pytest.raises(DataDependentOutputException):
            fake.sum().item()
        with pytest.raises(DataDependentOutputException):
            fake.tolist()
        with NoSync(), pytest.raises(AssertionError):
            fake.cpu()
