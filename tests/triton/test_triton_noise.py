"""The noise kernel against the torch noise: equal hashes, logarithms to the last bits."""

from __future__ import annotations

import torch
from kernel_cases import Request, random_case, step_for
from triton_cases import DEVICE, prepared

from led_sglang.kernels import NoiseStream
from led_sglang.kernels.eager.noise import GATE_COLUMN

SEEDS = [0, 1, 42, 2**31, 2**32 - 1, 2**32, 2**63 - 1, -1, -(2**63), 123456789012345]
POSITIONS = [0, 1, 77, 65535, 2**31 - 1, 5, 6, 7, 8, 9]


def both(candidates: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Gate and pick of three steps: the kernel's, and torch's on the CPU."""
    ids = torch.randint(0, 2**31 - 1, (len(SEEDS), candidates))
    ids[0, 0] = GATE_COLUMN
    has_seed = torch.arange(len(SEEDS)) % 3 != 1
    arguments = (torch.tensor(SEEDS), has_seed, torch.tensor(POSITIONS), ids)
    results = []
    requests = [Request(candidates=candidates)] * len(SEEDS)
    case = random_case(0, vocab=100, hidden=8, requests=requests)
    for step, device in ((prepared(case), DEVICE), (step_for(case, "torch"), "cpu")):
        stream = NoiseStream.start(2**40 + 11, device)
        moved = [x.to(device) for x in arguments]
        steps = [step.draw_noise(stream, *moved) for _ in range(3)]
        assert stream.step.tolist() == [3]
        assert step.reason is None
        results.append(steps)
    ours, theirs = results
    # The kernel's steps share their memory: the third is what is left.
    return [ours[2].gate.cpu(), ours[2].pick.cpu()], [theirs[2].gate, theirs[2].pick]


def test_noise_equals_torch() -> None:
    for candidates in (1, 8, 64):
        (gate, pick), (expected_gate, expected_pick) = both(candidates)
        assert torch.equal(gate, expected_gate)
        torch.testing.assert_close(pick, expected_pick, rtol=1e-13, atol=1e-13)
        assert pick.isfinite().all()
