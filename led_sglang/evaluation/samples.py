"""From a completion to a verdict, and to the record that is kept of the sample."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from led_sglang.common.samplers import SamplerSpec
from led_sglang.evaluation.endpoint import Completion
from led_sglang.evaluation.grading.fences import fenced_code
from led_sglang.evaluation.grading.graders import Grade, Question
from led_sglang.evaluation.grading.thinking import Delimiters, Parts, split_thinking
from led_sglang.evaluation.items import Item
from led_sglang.evaluation.store import Key
from led_sglang.evaluation.tasks import Task


@dataclass(frozen=True)
class Job:
    """One sample to generate."""

    key: Key
    task: Task
    item: Item
    sampler: SamplerSpec
    seed: int


@dataclass(frozen=True)
class Verdict:
    """What became of a completion.

    Attributes:
        outcome: correct | wrong | truncated | no_answer | timeout | error | ungraded (code that has
            not been executed).
        truncated: it was cut off, or its thinking never ended.
    """

    parts: Parts
    grade: Grade
    outcome: str
    truncated: bool


async def grade_completion(
    task: Task,
    item: Item,
    completion: Completion,
    delimiters: Delimiters,
    scope: str,
    grade: Callable[[Question], Awaitable[Grade]],
) -> Verdict:
    """Take a completion apart and grade what is in scope.

    Args:
        scope: `answer` or `completion`.
        grade: answers a question, within its time.
    """
    parts = split_thinking(
        completion.content, completion.reasoning, completion.finish_reason, delimiters
    )
    whole = f"{completion.reasoning or ''}{completion.content}"
    in_scope = parts.answer if scope == "answer" else whole
    if task.kind == "code":
        code = fenced_code(in_scope)
        found = Grade(correct=False, predicted=code or None)
    elif in_scope.strip():
        question = Question(
            kind=task.kind,
            gold=item.expected_answer,
            text=in_scope,
            answer=parts.answer,
            gold_format=task.gold,
            verbatim=scope == "completion",
            grader=str(task.grader or ""),
            row=item.row,
        )
        found = await grade(question)
    else:
        official = False if task.kind == "choice" else None
        found = Grade(correct=False, predicted=None, official=official)
    truncated = completion.finish_reason == "length" or not parts.closed
    return Verdict(parts, found, _outcome(task.kind, found, truncated), truncated)


def make_record(
    job: Job,
    request: Mapping[str, Any],
    completion: Completion,
    verdict: Verdict,
    thinking_tokens: int | None,
) -> dict[str, Any]:
    """The line that is stored of a sample.

    Args:
        request: its body, as it was sent.
        thinking_tokens: number of tokens of its thinking, None where it is not known.
    """
    grade = verdict.grade
    return {
        "id": job.item.id,
        "problem": job.item.problem,
        "expected_answer": job.item.expected_answer,
        "generation": verdict.parts.answer,
        "reasoning_content": verdict.parts.reasoning,
        "predicted_answer": grade.predicted,
        "symbolic_correct": None if job.task.kind == "code" else grade.correct,
        "num_generated_tokens": completion.tokens,
        "num_reasoning_tokens": thinking_tokens,
        "finish_reason": completion.finish_reason,
        "outcome": verdict.outcome,
        "truncated": verdict.truncated,
        "vote": grade.vote,
        "official_correct": grade.official,
        "led": completion.led,
        "num_prompt_tokens": completion.prompt_tokens,
        "task": job.key.task,
        "sampler": job.key.sampler,
        "temperature": job.key.temperature,
        "sample": job.key.sample,
        "seed": job.seed,
        "request": dict(request),
        "finished": round(time.time(), 3),
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
