"""What a benchmark asks of a server beside its tokens: totals, room, memory."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import psutil

from led_sglang.bench.plan import Arm
from led_sglang.common.address import ServerError, first_state
from led_sglang.common.answers import Answerer
from led_sglang.common.client import ServerClient
from led_sglang.methods.registry import sampler_names

_INTERVAL_S = 0.5
_MB = 2**20


class ServerView:
    """A server of this command's own, seen from outside."""

    def __init__(self, url: str, processes: Sequence[psutil.Process]) -> None:
        self.url = url
        self.processes = tuple(processes)
        self._client = ServerClient(url, timeout_s=120)

    def info(self) -> dict[str, Any]:
        """`/server_info`; ServerError where the server is gone."""
        return self._client.server_info()

    def model_path(self) -> str:
        return self._client.model_path()

    def led_totals(self) -> dict[str, Any]:
        """LED's totals; empty without the plugin."""
        return (first_state(self.info()).get("led") or {}).get("totals") or {}

    def check_answerer(self, arm: Arm) -> None:
        """Ask for one token as an arm does, and see who made it.

        Raises:
            ServerError: another sampler answers, or other settings do.
        """
        if arm.custom_params is None:
            return
        sampler = arm.custom_params["sampler"]
        sampling = {"max_new_tokens": 1, "custom_params": arm.custom_params}
        made_by = Answerer(self._client.generate([0], sampling).get("meta_info"))
        wrong = made_by.complaint(sampler, arm.custom_params.get(sampler, {}), sampler_names())
        if wrong is not None:
            raise ServerError(f"{self.url} {wrong}")

    def too_large(self, batch_size: int, tokens: int) -> str | None:
        """Why a batch with so many KV tokens does not fit, or None where it does."""
        info = self.info()
        pool = info.get("max_total_num_tokens") or first_state(info).get("max_total_num_tokens")
        if pool is not None and tokens > int(pool):
            return (
                f"batch size {batch_size} needs {tokens} KV tokens and the server's pool holds "
                f"{pool}: lower --context or --output-len, or raise --max-total-tokens or "
                "--mem-fraction-static after --"
            )
        running = first_state(info).get("effective_max_running_requests_per_dp")
        if running is not None and batch_size > int(running) * int(info.get("dp_size") or 1):
            return (
                f"batch size {batch_size} is more than the {running} requests the server runs at "
                "once: raise --max-running-requests after --"
            )
        return None


class PeakMemory:
    """The largest memory of a server while a run lasts, in MB: its GPU's, or its processes' own.

    Polled every half second: SGLang's pools are allocated at launch and hardly move.
    """

    def __init__(self, server: ServerView) -> None:
        self._server = server
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak_mb: float | None = None

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        read = _gpu_memory_mb if shutil.which("nvidia-smi") else self._resident_mb
        while True:
            now = read()
            if now is not None:
                self.peak_mb = max(self.peak_mb or 0.0, now)
            if self._done.wait(_INTERVAL_S):
                return

    def _resident_mb(self) -> float:
        total = 0
        for process in self._server.processes:
            with suppress(psutil.Error):
                total += process.memory_info().rss
        return total / _MB


def _gpu_memory_mb() -> float | None:
    """Used memory of all GPUs together; the first call of a run is made before it begins."""
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    with suppress(OSError, subprocess.SubprocessError, ValueError):
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
        return float(sum(int(line) for line in answer.stdout.split()))
    return None
