"""Graders in worker processes that can be killed."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from dataclasses import asdict

from led_sglang.evaluation import EvaluationError
from led_sglang.evaluation.grading.graders import Grade, Question

_MAX_REPLY_BYTES = 1 << 26


class GradingPool:
    """Grades in `workers` processes, each answer within `timeout` seconds.

    An answer that takes longer gets the problem "timeout", one that crashes its worker "error";
    the worker is replaced.
    """

    def __init__(self, workers: int, timeout: float) -> None:
        self._workers, self._timeout = workers, timeout
        self._idle: asyncio.Queue[asyncio.subprocess.Process | None] = asyncio.Queue()
        self._running: set[asyncio.subprocess.Process] = set()

    async def __aenter__(self) -> GradingPool:
        for _ in range(self._workers):
            self._idle.put_nowait(None)  # started on first use
        return self

    async def __aexit__(self, *_: object) -> None:
        for worker in self._running:
            if worker.returncode is None:
                worker.kill()
            await worker.wait()

    async def grade(self, question: Question) -> Grade:
        """Grade one answer; waits for a free worker."""
        worker = await self._idle.get()
        try:
            if worker is None:
                worker = await self._start()
            verdict = await self._ask(worker, question)
            if worker.returncode is not None:
                self._running.discard(worker)
                worker = None
            return verdict
        except asyncio.CancelledError:
            # Its reply would be taken for the next question's.
            if worker is not None:
                worker.kill()
            worker = None
            raise
        finally:
            self._idle.put_nowait(worker)

    async def _start(self) -> asyncio.subprocess.Process:
        worker = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "led_sglang.evaluation.grading.worker", str(self._timeout)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_MAX_REPLY_BYTES,
            start_new_session=True,  # Ctrl-C is for the run, which ends its workers itself
        )
        self._running.add(worker)
        return worker

    async def _ask(self, worker: asyncio.subprocess.Process, question: Question) -> Grade:
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            worker.stdin.write(json.dumps(asdict(question)).encode() + b"\n")
            await worker.stdin.drain()
        except (ConnectionError, RuntimeError):  # uvloop has a RuntimeError for a closed pipe
            pass  # it has died: the reply is empty
        reply = await worker.stdout.readline()
        if reply.endswith(b"\n"):
            return Grade(**json.loads(reply))
        status = await worker.wait()
        if status == 1:
            raise EvaluationError("a grading worker could not start; its error is above")
        problem = "timeout" if status == -signal.SIGALRM else "error"
        return Grade(correct=False, predicted=None, problem=problem)
