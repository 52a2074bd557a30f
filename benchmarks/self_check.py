"""Time and memory of a launch's self-check at real shapes: `python -m benchmarks.self_check`.

A random head stands for a model's; the step and the check are those of a server with one rank.
"""

from __future__ import annotations

import argparse
import threading
import time
from types import SimpleNamespace
from typing import Any

import psutil
import torch
from torch import Tensor

from led_sglang.kernels import LaunchLimits, LmHeadShard, prepare
from led_sglang.patches.self_check import Loaded, self_check

_MIB = 2**20


def main() -> None:
    """Print what the check takes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--vocab", type=int, default=151936)
    parser.add_argument("--hidden", type=int, default=2560)
    parser.add_argument("--threads", type=int, default=1, help="of a CPU")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    loaded = _loaded(torch.device(options.device), options.vocab, options.hidden)
    before = time.process_time()
    with _Watch(loaded.device) as watch:
        _, report = self_check(loaded, "on")
    print(
        f"{report.seconds:.2f} s ({time.process_time() - before:.2f} s of the CPU), "
        f"{watch.peak / _MIB:.0f} MiB at its worst moment, "
        f"{watch.left / _MIB:.0f} MiB kept; finding: {report.finding}"
    )


def _loaded(device: torch.device, vocab: int, hidden: int) -> Loaded:
    weight = (torch.randn(vocab, hidden, device=device) * 0.02).bfloat16()

    def logits(states: Tensor, *_: Any, **__: Any) -> Tensor:
        return (states @ weight.T).float()

    def norm(states: Tensor) -> Tensor:
        return torch.nn.functional.rms_norm(states, (hidden,))

    limits = LaunchLimits(
        batch=4097,
        candidates=64,
        depth=8,
        vocab=vocab,
        captured=8,
        latents_dtype=torch.bfloat16,
        logits_dtypes=(torch.float32,),
    )
    head = LmHeadShard(weight, 0, vocab)
    processor = SimpleNamespace(_get_logits=logits, vocab_size=vocab)
    model = SimpleNamespace(logits_processor=processor, lm_head=None, config=None)
    group = SimpleNamespace(rank_in_group=0, world_size=1, all_gather_object=lambda sent: [sent])
    step = prepare(head, limits, device=device, final_norm=norm)
    return Loaded(model, head, norm, step, limits, hidden, None, group, device)


class _Watch:
    """Memory beyond what was in use at the start, in bytes: the most, and what is left."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self.peak = self.left = 0

    def __enter__(self) -> _Watch:
        self._start = self._used()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats()
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._ended.set()
        self._thread.join()
        self.left = self._used() - self._start
        if self._on_gpu:
            self.peak = torch.cuda.max_memory_reserved() - self._start

    def _look(self) -> None:
        while not self._ended.is_set():
            self.peak = max(self.peak, self._used() - self._start)
            time.sleep(0.005)

    def _used(self) -> int:
        used: int = (
            torch.cuda.memory_reserved() if self._on_gpu else psutil.Process().memory_info().rss
        )
        return used


if __name__ == "__main__":
    main()
