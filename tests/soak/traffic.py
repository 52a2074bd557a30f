"""Concurrent traffic with random aborts and disconnects, every answer compared as it arrives."""

from __future__ import annotations

import asyncio
import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import aiohttp
from workload import Job

# A request that takes longer than this hangs.
DEADLINE_S = 600.0
PROGRESS_EVERY = 250


@dataclass
class Outcome:
    """Counts of what happened, and the first failures in words."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def fail(self, text: str) -> None:
        self.counts["failures"] += 1
        if len(self.failures) < 20:
            self.failures.append(text)
            print(f"FAILED {text}", file=sys.stderr)


class Traffic:
    """Sends jobs to one server."""

    def __init__(self, url: str, jobs: Sequence[Job], abort_share: float, seed: int) -> None:
        self.url, self.jobs, self.abort_share = url, jobs, abort_share
        self.random = random.Random(seed)
        self.outcome = Outcome()
        self._done = 0

    async def run(self, requests: int, concurrency: int) -> Outcome:
        """Send `requests` jobs, `concurrency` at a time."""
        started = time.monotonic()
        numbers = iter(range(requests))
        timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
        # A connection each: a server may close an idle one just as a request is sent on it.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with aiohttp.ClientSession(self.url, timeout=timeout, connector=connector) as http:

            async def worker() -> None:
                for number in numbers:
                    await self._one(http, number)
                    self._done += 1
                    if self._done % PROGRESS_EVERY == 0:
                        seconds = time.monotonic() - started
                        counts = dict(self.outcome.counts)
                        print(f"{self._done} requests, {seconds:.0f} s: {counts}", file=sys.stderr)

            await asyncio.gather(*(worker() for _ in range(concurrency)))
        self.outcome.seconds = time.monotonic() - started
        return self.outcome

    async def _one(self, http: aiohttp.ClientSession, number: int) -> None:
        job = self.random.choice(self.jobs)
        ending = "whole"
        if self.random.random() < self.abort_share:
            ending = self.random.choice(["abort", "disconnect"])
        delay = self.random.expovariate(3.0)
        # Of one length: SGLang aborts every request whose id begins with the one named.
        rid = f"soak-{number:08d}"
        try:
            if ending == "disconnect":
                await self._disconnect(http, job, rid)
            elif ending == "abort":
                await self._abort(http, job, rid, delay)
            else:
                await self._whole(http, job, rid)
        except (aiohttp.ClientError, TimeoutError) as error:
            self.outcome.fail(f"request {number} ({ending}): {type(error).__name__}: {error}")

    async def _whole(self, http: aiohttp.ClientSession, job: Job, rid: str) -> None:
        async with http.post("/generate", json=job.body(rid=rid)) as response:
            text = await response.text()
        if response.status != 200:
            self.outcome.fail(f"{rid}: HTTP {response.status}: {text[:300]}")
            return
        answer = json.loads(text)
        if answer["meta_info"]["finish_reason"]["type"] == "abort":
            self.outcome.fail(f"{rid}: aborted by the server: {text[:300]}")
            return
        tokens = tuple(answer["output_ids"])
        self._compare(job, rid, tokens, whole=True)
        self.outcome.counts["whole"] += 1
        self.outcome.counts["tokens"] += len(tokens)
        self.outcome.counts["retractions"] += answer["meta_info"]["num_retractions"]

    async def _abort(self, http: aiohttp.ClientSession, job: Job, rid: str, delay: float) -> None:
        request = asyncio.create_task(self._aborted(http, job, rid))
        await asyncio.sleep(delay)
        async with http.post("/abort_request", json={"rid": rid}) as response:
            await response.read()
        await request

    async def _aborted(self, http: aiohttp.ClientSession, job: Job, rid: str) -> None:
        async with http.post("/generate", json=job.body(rid=rid)) as response:
            text = await response.text()
        # A pair's decode server knows of an abort at the prefill server that its half fails.
        by_half = response.status == 500 and re.search("Aborted by AbortReq|timed out", text)
        if response.status not in (200, 400, 499, 503) and not by_half:
            self.outcome.fail(f"{rid}: HTTP {response.status} after an abort: {text[:300]}")
            return
        self.outcome.counts["aborted"] += 1
        if by_half:
            self.outcome.counts["aborts in time"] += 1
        elif response.status == 200:
            answer = json.loads(text)
            self._compare(job, rid, tuple(answer["output_ids"]), whole=False)
            reason = answer["meta_info"]["finish_reason"]["type"]
            late = "aborts in time" if reason == "abort" else "aborts too late"
            self.outcome.counts[late] += 1

    async def _disconnect(self, http: aiohttp.ClientSession, job: Job, rid: str) -> None:
        """Read a few chunks of a stream, then hang up."""
        chunks = self.random.randrange(1, 8)
        tokens: tuple[int, ...] = ()
        async with http.post("/generate", json=job.body(rid=rid, stream=True)) as response:
            if response.status != 200:
                self.outcome.fail(f"{rid}: HTTP {response.status}: {await response.text()}")
                return
            async for line in response.content:
                if not line.startswith(b"data: {"):
                    continue
                tokens = tuple(json.loads(line.removeprefix(b"data: "))["output_ids"])
                chunks -= 1
                if chunks == 0:
                    break
            response.close()
        self._compare(job, rid, tokens, whole=False)
        self.outcome.counts["disconnected"] += 1

    def _compare(self, job: Job, rid: str, tokens: tuple[int, ...], whole: bool) -> None:
        if whole and len(tokens) != job.length:
            self.outcome.fail(f"{rid}: {len(tokens)} tokens instead of {job.length}")
        if job.expected is None:
            return
        if tokens != job.expected[: len(tokens)]:
            first = next(i for i, t in enumerate(tokens) if t != job.expected[i])
            self.outcome.fail(
                f"{rid} ({job.kind}, {job.custom}, {job.sampling}): token {first} is "
                f"{tokens[first]}, alone it was {job.expected[first]}"
            )
        self.outcome.counts[f"{job.kind} compared"] += 1
