"""reasoning-gym as a source of tasks, with its own verifiers as graders."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from eval_harness import led_eval, records, running
from fake_engine import FakeEngine

from led_sglang.evaluation import EvaluationError
from led_sglang.evaluation.grading.graders import Grade, Question
from led_sglang.evaluation.grading.pool import GradingPool
from led_sglang.evaluation.tasks import Task, load_task


def graded(task: Task, answers: list[str]) -> list[Grade]:
    """The worker's verdicts on an answer to each problem."""

    async def all_of_them() -> list[Grade]:
        async with GradingPool(1, 10.0) as pool:
            return [
                await pool.grade(
                    Question("python", item.expected_answer, answer, grader=str(task.grader),
                             row=item.row)
                )
                for item, answer in zip(task.items, answers, strict=True)
            ]  # fmt: skip

    return asyncio.run(all_of_them())


# One answer that a text comparison would do for, and one where many are right.
@pytest.mark.parametrize("name", ["chain_sum", "countdown"])
def test_the_verifier_judges_what_the_answer_holds(name: str) -> None:
    task = load_task(f"reasoning_gym:{name}", limit=3)
    assert len(task.items) == 3
    assert task.prompt(task.items[0]).startswith(task.items[0].problem)
    golds = [item.expected_answer for item in task.items]
    right = graded(task, [f"So it is <answer>{gold}</answer>." for gold in golds])
    assert [(grade.correct, grade.predicted) for grade in right] == [(True, g) for g in golds]
    wrong = graded(task, ["<answer>1</answer>", "I cannot say", ""])
    assert [grade.correct for grade in wrong] == [False] * 3
    assert wrong[2].predicted is None


def test_another_way_to_the_target_is_right() -> None:
    task = load_task("reasoning_gym:countdown", limit=1)
    (item,) = task.items
    assert [g.correct for g in graded(task, [f"<answer>({item.expected_answer})</answer>"])] == [
        True
    ]


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
