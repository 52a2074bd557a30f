"""Generation: every missing sample of the grid, asked for, graded and stored as it finishes."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from led_sglang.evaluation import EvaluationError
from led_sglang.evaluation.endpoint import Completion, Endpoint, ServedModel
from led_sglang.evaluation.grading.pool import GradingPool
from led_sglang.evaluation.grading.thinking import Delimiters, Parts
from led_sglang.evaluation.grid import Grid
from led_sglang.evaluation.samples import Job, grade_completion, make_record
from led_sglang.evaluation.seeds import sample_seed
from led_sglang.evaluation.store import Key, RunStore
from led_sglang.evaluation.tasks import Task
from led_sglang.evaluation.tokenizer import ServerTokenizer
from led_sglang.methods.registry import sampler_names


@dataclass(frozen=True)
class SamplePlan:
    """What a run does and with what.

    Attributes:
        plugin: the server knows `custom_params.sampler`.
        sglang: the server takes SGLang's own keys.
        special_tokens: completions come with their special tokens, the delimiters among them.
    """

    grid: Grid
    tasks: Sequence[Task]
    model: ServedModel
    delimiters: Delimiters
    plugin: bool
    sglang: bool
    special_tokens: bool

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
                    seed = sample_seed(
                        self.grid.seed,
                        *(task.name, item.id, sample),
                        per_sample=self.grid.seed_per_sample,
                    )
                    yield Job(key, task, item, sampler, seed)

    def size(self) -> int:
        cells = len(self.grid.samplers) * len(self.grid.temperatures) * self.grid.n
        return cells * sum(len(task.items) for task in self.tasks)

    def body(self, job: Job) -> dict[str, Any]:
        """The request of a sample: one seed each, never `n` > 1 in one request."""
        body: dict[str, Any] = {
            # By name too, where names choose: a gateway may drop custom_params.
            "model": self.model.by_sampler.get(job.sampler.name, self.model.name),
            "messages": [{"role": "user", "content": job.task.prompt(job.item)}],
            "max_tokens": self.grid.max_tokens,
            "temperature": job.key.temperature,
            "top_p": self.grid.top_p,
            "seed": job.seed,
            **job.sampler.sampling,
        }
        if self.sglang:
            body["return_meta_info"] = True
        # OpenAI's own API knows no top_k.
        if self.sglang or self.grid.top_k >= 0:
            body.setdefault("top_k", self.grid.top_k)
        if self.special_tokens:
            body["skip_special_tokens"] = False
        if self.plugin:
            custom: dict[str, Any] = {"sampler": job.sampler.name}
            if job.sampler.params:
                custom[job.sampler.name] = dict(job.sampler.params)
            body["custom_params"] = custom
        return body


async def generate(
    plan: SamplePlan,
    done: set[Key],
    store: RunStore,
    endpoint: Endpoint,
    tokenizer: ServerTokenizer,
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
            body = plan.body(job)
            completion = await endpoint.complete(body)
            if plan.plugin:
                _check_answerer(completion, job, endpoint.url)
            verdict = await grade_completion(
                job.task, job.item, completion, plan.delimiters, plan.grid.scope, pool.grade
            )
            thought = await _count_thinking(tokenizer, completion, verdict.parts)
            record = make_record(job, body, completion, verdict, thought)
            store.append_sample(job.key, record)
            on_sample(record)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(work())
    except* EvaluationError as errors:
        raise errors.exceptions[0] from None


def _check_answerer(completion: Completion, job: Job, url: str) -> None:
    """Every answer is checked: replicas behind a gateway need not be alike."""
    sampler = job.sampler
    wrong = completion.answerer.complaint(sampler.name, sampler.params, sampler_names())
    if wrong is not None:
        raise EvaluationError(f"{url} {wrong}")


async def _count_thinking(
    tokenizer: ServerTokenizer, completion: Completion, parts: Parts
) -> int | None:
    """Tokens of the thinking; None where the server cannot tell."""
    if not parts.closed and not parts.answer:
        return completion.tokens
    counted = await tokenizer.count(parts.reasoning)
    # Text does not always become the same tokens again: half a character becomes several.
    return None if counted is None else min(counted, completion.tokens)
