"""Generation: every missing sample of the grid, asked for, graded and stored as it finishes."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from led_sglang.evaluation import EvaluationError
from led_sglang.evaluation.client import Completion, Endpoint
from led_sglang.evaluation.graders import Grade, Question, last_python_fence
from led_sglang.evaluation.grading_pool import GradingPool
from led_sglang.evaluation.grid import Grid, SamplerSpec
from led_sglang.evaluation.store import Key, RunStore
from led_sglang.evaluation.tasks import Item, Task
from led_sglang.evaluation.thinking import Delimiters, split_thinking


@dataclass(frozen=True)
class Job:
    """One sample to generate."""

    key: Key
    task: Task
    item: Item
    sampler: SamplerSpec


@dataclass(frozen=True)
class Plan:
    """What a run does and with what.

    Attributes:
        plugin: the server knows `custom_params.sampler`.
    """

    grid: Grid
    tasks: Sequence[Task]
    model: str
    delimiters: Delimiters
    plugin: bool

    def jobs(self) -> Iterator[Job]:
        """All samples; samplers and temperatures alternate within a problem.

        So a run that is stopped has compared its samplers on the same problems.
        """
        for task in self.tasks:
            for item in task.items:
                for sampler, temperature, sample in itertools.product(
                    self.grid.samplers, self.grid.temperatures, range(self.grid.n)
                ):
                    key = Key(task.name, sampler.label, temperature, item.id, sample)
                    yield Job(key, task, item, sampler)

    def size(self) -> int:
        cells = len(self.grid.samplers) * len(self.grid.temperatures) * self.grid.n
        return cells * sum(len(task.items) for task in self.tasks)

    def body(self, job: Job) -> dict[str, Any]:
        """The request of a sample: one seed each, never `n` > 1 in one request."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": job.task.prompt(job.item)}],
            "max_tokens": self.grid.max_tokens,
            "temperature": job.key.temperature,
            "top_p": self.grid.top_p,
            "top_k": self.grid.top_k,
            "seed": self.grid.seed + job.key.sample,
            "return_meta_info": True,
            **job.sampler.sampling,
        }
        if self.plugin:
            custom: dict[str, Any] = {"sampler": job.sampler.name}
            if job.sampler.params:
                custom[job.sampler.name] = dict(job.sampler.params)
            body["custom_params"] = custom
        return body


async def generate(
    plan: Plan,
    done: set[Key],
    store: RunStore,
    endpoint: Endpoint,
    pool: GradingPool,
    *,
    concurrency: int,
    on_sample: Callable[[Mapping[str, Any]], None],
) -> None:
    """Generate, grade and store every sample that is not in `done`.

    `concurrency` samples are under way at a time; each is written before its slot takes the next
    one, so a slow grader or disk slows the requests down instead of piling answers up.

    Raises:
        EvaluationError: the first error that retrying did not cure; the rest is cancelled.
    """
    jobs = (job for job in plan.jobs() if job.key not in done)

    async def work() -> None:
        for job in jobs:  # shared by all workers
            completion = await endpoint.complete(plan.body(job))
            record = await _finish(plan, job, completion, endpoint, pool)
            store.append_sample(job.key, record)
            on_sample(record)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(work())
    except* EvaluationError as errors:
        raise _first(errors) from None


def _first(errors: BaseExceptionGroup[Any]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _finish(
    plan: Plan, job: Job, completion: Completion, endpoint: Endpoint, pool: GradingPool
) -> dict[str, Any]:
    """The record of a sample: what it said, and the verdict."""
    parts = split_thinking(
        completion.content, completion.reasoning, completion.finish_reason, plan.delimiters
    )
    whole = f"{completion.reasoning or ''}{completion.content}"
    in_scope = parts.answer if plan.grid.scope == "answer" else whole
    if job.task.kind == "code":
        code = last_python_fence(in_scope)
        grade = Grade(correct=False, predicted=code or None)
    elif in_scope.strip():
        question = Question(
            kind=job.task.kind,
            gold=job.item.expected_answer,
            text=in_scope,
            answer=parts.answer,
            gold_format=job.task.gold,
        )
        grade = await pool.grade(question)
    else:
        official = False if job.task.kind == "choice" else None
        grade = Grade(correct=False, predicted=None, official=official)
    truncated = completion.finish_reason == "length" or not parts.closed
    return {
        "id": job.item.id,
        "problem": job.item.problem,
        "expected_answer": job.item.expected_answer,
        "generation": parts.answer,
        "reasoning_content": parts.reasoning,
        "predicted_answer": grade.predicted,
        "symbolic_correct": None if job.task.kind == "code" else grade.correct,
        "num_generated_tokens": completion.tokens,
        "num_reasoning_tokens": await endpoint.count_tokens(plan.model, parts.reasoning),
        "finish_reason": completion.finish_reason,
        "outcome": _outcome(job.task.kind, grade, truncated),
        "truncated": truncated,
        "vote": grade.vote,
        "official_correct": grade.official,
        "led": completion.led,
        "num_prompt_tokens": completion.prompt_tokens,
        "task": job.key.task,
        "sampler": job.key.sampler,
        "temperature": job.key.temperature,
        "sample": job.key.sample,
        "seed": plan.grid.seed + job.key.sample,
    }


def _outcome(kind: str, grade: Grade, truncated: bool) -> str:
    """One word for what became of a sample."""
    if grade.correct:
        return "correct"
    if grade.problem:
        return grade.problem
    if truncated:  # whatever it lacks, it lacks because it was cut off
        return "truncated"
    if grade.predicted is None:
        return "no_answer"
    return "ungraded" if kind == "code" else "wrong"
