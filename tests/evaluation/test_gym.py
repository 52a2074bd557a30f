"""reasoning-gym as a source of tasks, with its own verifiers as graders."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from eval_harness import led_eval, records, running
from fake_engine import FakeEngine

from led_sglang.evaluation import EvaluationError
from led_sglang.evaluation.grading.graders import Grade, Question
from led_sglang.evaluation.grading.pool import GradingPool
from led_sglang.evaluation.tasks import Task, load_task


def graded(asked: Sequence[tuple[Task, str]]) -> list[Grade]:
    """A worker's verdicts on answers to the first problems of tasks."""

    async def all_of_them() -> list[Grade]:
        async with GradingPool(1, 10.0) as pool:
            return [
                await pool.grade(
                    Question("python", "", answer, grader=str(task.grader), row=task.items[0].row)
                )
                for task, answer in asked
            ]

    return asyncio.run(all_of_them())


def test_the_verifier_judges_what_the_answer_holds() -> None:
    """Many answers to countdown are right: the gold one in brackets is another."""
    tasks = [load_task(f"reasoning_gym:{name}", limit=1) for name in ("chain_sum", "countdown")]
    golds = [task.items[0].expected_answer for task in tasks]
    assert all(t.prompt(t.items[0]).startswith(t.items[0].problem) for t in tasks)
    asked = [
        *((task, f"So it is <answer>{g}</answer>.") for task, g in zip(tasks, golds, strict=True)),
        (tasks[1], f"<answer>({golds[1]})</answer>"),
        *((task, "<answer>1</answer>") for task in tasks),
        *((task, "I cannot say") for task in tasks),
        (tasks[0], ""),
    ]
    found = graded(asked)
    assert [grade.correct for grade in found] == [True] * 3 + [False] * 5
    assert [grade.predicted for grade in found[:3]] == [*golds, f"({golds[1]})"]
    assert found[-1].predicted is None


def test_problems_are_the_same_every_time() -> None:
    first, again = (load_task("reasoning_gym:countdown", limit=4) for _ in range(2))
    assert first.fingerprint() == again.fingerprint()
    assert first.fingerprint() != load_task("reasoning_gym:chain_sum", limit=4).fingerprint()


def test_an_unknown_generator_is_named_with_those_there_are() -> None:
    with pytest.raises(EvaluationError, match=r"no 'count'; it has .*countdown") as refused:
        load_task("reasoning_gym:count")
    assert "\n" not in str(refused.value)


def test_a_generator_from_question_to_report(tmp_path: Path) -> None:
    task = load_task("reasoning_gym:chain_sum", limit=2)
    # The fake engine boxes the gold where it is right.
    answers = {item.problem: item.expected_answer for item in task.items}
    with running(FakeEngine(answers=answers)) as url:
        done = led_eval(
            *("--base-url", url, "--run-dir", tmp_path, "--tasks", "reasoning_gym:chain_sum"),
            *("--limit", 2, "--samplers", "regular,led", "--n", 8, "--max-tokens", 64),
            *("--grade-workers", 1),
        )
    assert done.returncode == 0, done.stderr
    found = records(tmp_path)
    assert len(found) == 2 * 2 * 8
    for record in found:
        expected = record["predicted_answer"] == record["expected_answer"]
        assert record["symbolic_correct"] == expected
    assert {record["symbolic_correct"] for record in found} == {True, False}
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["tasks"]["gym-chain_sum"]["led"]["0.6"]["num_samples"] == 16
