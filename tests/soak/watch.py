"""What must not grow: resident memory of the server's processes, and slots in use."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy
import psutil
from harness import Server

_INTERVAL_S = 2.0


@dataclass
class Memory:
    """Resident MiB of each server process over time."""

    seconds: list[float] = field(default_factory=list)
    mib: dict[str, list[float]] = field(default_factory=dict)

    def slopes(self) -> dict[str, float]:
        """MiB per minute over the second half of the run, by process."""
        slopes = {}
        for name, values in self.mib.items():
            half = len(values) // 2
            minutes = numpy.array(self.seconds[-len(values) :][half:]) / 60.0
            slopes[name] = float(numpy.polyfit(minutes, values[half:], 1)[0])
        return slopes

    def ends(self) -> dict[str, tuple[float, float]]:
        """MiB at the middle and at the end, by process."""
        return {name: (v[len(v) // 2], v[-1]) for name, v in self.mib.items()}


@contextmanager
def memory_of(servers: Mapping[str, Server]) -> Iterator[Memory]:
    """Sample the processes of servers, which have names, until the block ends."""
    memory, stop = Memory(), threading.Event()
    named = {
        f"{which} {name}".strip(): process
        for which, server in servers.items()
        for name, process in _named(psutil.Process(server.process.pid)).items()
    }
    memory.mib = {name: [] for name in named}

    def sample() -> None:
        started = time.monotonic()
        while not stop.wait(_INTERVAL_S):
            memory.seconds.append(time.monotonic() - started)
            for name, process in named.items():
                memory.mib[name].append(process.memory_info().rss / 2**20)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield memory
    finally:
        stop.set()
        thread.join()


def _named(server: psutil.Process) -> dict[str, psutil.Process]:
    """SGLang starts its schedulers before its detokenizer; forked, they have no titles to read."""
    children = server.children(recursive=True)
    workers = [c for c in children if "resource_tracker" not in " ".join(c.cmdline())]
    *schedulers, detokenizer = sorted(workers, key=lambda child: child.create_time())
    named = {f"scheduler {rank}": process for rank, process in enumerate(schedulers)}
    return {"server": server, **named, "detokenizer": detokenizer}


# Requests running and waiting, KV tokens neither free nor evictable; the queues of a pair.
_GAUGES = (
    *("num_running_reqs", "num_queue_reqs", "num_used_tokens"),
    *("num_prefill_bootstrap_queue_reqs", "num_prefill_inflight_queue_reqs"),
    *("num_decode_prealloc_queue_reqs", "num_decode_transfer_queue_reqs"),
)


def gauges(servers: Iterable[Server]) -> dict[str, float]:
    """What the servers hold, all ranks together."""
    found = dict.fromkeys(_GAUGES, 0.0)
    for line in (line for s in servers for line in s.get("/metrics").text.splitlines()):
        match = re.match(r"sglang:(\w+)(?:\{.*\})? ([-+.eE\d]+)$", line)
        if match and match[1] in found:
            found[match[1]] += float(match[2])
    return found


def drained(servers: Mapping[str, Server], timeout_s: float = 60.0) -> dict[str, float]:
    """The gauges once all are zero, or after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        now = gauges(servers.values())
        if not any(now.values()) or time.monotonic() > deadline:
            return now
        time.sleep(1.0)
