"""Tasks: prompts word for word, wrong files named, the hub's rows read from local parquet."""

from __future__ import annotations

import asyncio
import base64
import json
import pickle
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from led_sglang.evaluation import EvaluationError
from led_sglang.evaluation.code_verdicts import execute, export, read_verdicts
from led_sglang.evaluation.grading.graders import Grade, Question
from led_sglang.evaluation.grading.pool import GradingPool
from led_sglang.evaluation.grading.thinking import Delimiters, split_thinking
from led_sglang.evaluation.hub import load_items
from led_sglang.evaluation.items import Item, read_items
from led_sglang.evaluation.prompts import CHOICE, CODE, MATH, render
from led_sglang.evaluation.store import Key, RunStore
from led_sglang.evaluation.tasks import Task, load_task


def test_aime24_item_22_is_the_corrected_one() -> None:
    assert load_task("aime24").items[22].expected_answer == "197"


def test_math_prompt() -> None:
    assert render(MATH, "math", Item("1", "What is {x}?")) == (
        "Please reason step by step, and put your final answer within \\boxed{}.\n\nWhat is {x}?"
    )


def test_choice_prompt() -> None:
    assert render(CHOICE, "choice", Item("1", "Which?", "A", ("p", "q", "r", "s"))) == (
        "Please solve the following multiple-choice question. Please show your choice in the "
        'answer field with only the choice letter, e.g.,"answer": "C".\n\n'
        "Which?\nA. p\nB. q\nC. r\nD. s"
    )


def test_code_prompts() -> None:
    start = (
        "You will be given a question (problem specification) and will generate a correct Python "
        "program that matches the specification and passes all tests.\n\nQuestion: Add.\n\n"
    )
    assert render(CODE, "code", Item("1", "Add.")) == (
        f"{start}Read the inputs from stdin solve the problem and write the answer to stdout (do "
        "not directly test on the sample inputs). Enclose your code within delimiters as follows. "
        "Ensure that when the python program runs, it reads the inputs, runs the algorithm and "
        "writes output to STDOUT.\n```python\n# YOUR CODE HERE\n```"
    )
    assert render(CODE, "code", Item("1", "Add.", starter_code="def add(a, b):")) == (
        f"{start}You will use the following starter code to write the solution to the problem and "
        "enclose your code within delimiters.\n```python\ndef add(a, b):\n```"
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "2"', "line 2: Expecting"),
        ("[1]", "line 2: a line must be a JSON object"),
        ('{"id": 2, "problem": "p", "expected_answer": "1"}', "line 2: id must be a text"),
        ('{"id": "2", "expected_answer": "1"}', "line 2: problem must be a text"),
        ('{"id": "2", "problem": "p"}', "line 2: expected_answer must be a text"),
        ('{"id": "1", "problem": "p", "expected_answer": "1"}', "id '1' is used twice"),
    ],
)
def test_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text('{"id": "1", "problem": "p", "expected_answer": "1"}\n' + line + "\n")
    with pytest.raises(EvaluationError, match=message) as error:
        read_items(path, "math")
    assert str(path) in str(error.value)


def test_users_own_task(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        'name: mine\nkind: math\ngold: expr\ndata: mine.jsonl\nprompt: "Q: {problem} A:"\n'
    )
    (tmp_path / "mine.jsonl").write_text('{"id": "1", "problem": "1+1", "expected_answer": "2"}')
    task = load_task(str(tmp_path / "mine.yaml"))
    assert (task.name, task.prompt(task.items[0])) == ("mine", "Q: 1+1 A:")


GRADER = """
def grade(item, answer):
    words = answer.split()
    return (bool(words) and eval(words[-1]) == item["target"], words[-1] if words else None)
"""


@pytest.fixture
def countdown(tmp_path: Path) -> Path:
    """A user's task with a grader of its own and no gold answers."""
    (tmp_path / "countdown.yaml").write_text(
        "name: countdown\nkind: python\ngrader: grade.py\ndata: countdown.jsonl\n"
    )
    (tmp_path / "grade.py").write_text(GRADER)
    (tmp_path / "countdown.jsonl").write_text('{"id": "1", "problem": "2 3 4", "target": 14}\n')
    return tmp_path / "countdown.yaml"


def test_users_own_grader(countdown: Path) -> None:
    task = load_task(str(countdown))
    (item,) = task.items
    assert task.prompt(item) == "2 3 4"
    answers = ["It is 2*(3+4)", "It is 2*3+4", "", "It is 2*("]
    questions = [
        Question("python", gold="", text=answer, grader=str(task.grader), row=item.row)
        for answer in answers
    ]

    async def run() -> list[Grade]:
        async with GradingPool(1, timeout=5.0) as pool:
            return [await pool.grade(question) for question in questions]

    grades = asyncio.run(run())
    assert [grade.correct for grade in grades] == [True, False, False, False]
    assert [grade.predicted for grade in grades] == ["2*(3+4)", "2*3+4", None, None]
    assert [grade.problem for grade in grades] == ["", "", "", "error"]


def test_a_changed_grader_or_line_is_another_task(countdown: Path) -> None:
    before = load_task(str(countdown)).fingerprint()
    data = countdown.with_name("countdown.jsonl")
    data.write_text(data.read_text().replace("14", "15"))
    assert load_task(str(countdown)).fingerprint()["prompts"] != before["prompts"]
    countdown.with_name("grade.py").write_text(GRADER + "# another one\n")
    assert load_task(str(countdown)).fingerprint()["grader"] != before["grader"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("grade = 3", "defines no function grade"),
        ("import a_module_that_is_not_there", "a_module_that_is_not_there"),
        ("def grade(", "SyntaxError"),
        (None, "No such file"),
    ],
)
def test_a_broken_grader_is_named(countdown: Path, source: str | None, message: str) -> None:
    file = countdown.with_name("grade.py")
    if source is None:
        file.unlink()
    else:
        file.write_text(source)
    with pytest.raises(EvaluationError, match=message) as error:
        load_task(str(countdown))
    assert str(file) in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nkind: essay\ndata: x", "kind must be one of math, choice, code, text, python"),
        ("name: a\nkind: python\ndata: x", "kind python, and no other, needs grader"),
        ("name: a\nkind: text\ndata: x\ngrader: y", "kind python, and no other, needs grader"),
        ("name: a\nkind: math\ndata: x", "gold must be one of expr, latex"),
        ("name: a/b\nkind: code\ndata: x", "name must be"),
        ("name: ..\nkind: code\ndata: x", "name must be"),
        ("name: 2024\nkind: code\ndata: x", "name must be a text, not 2024"),
        ("name: a\nkind: [code]\ndata: x", "kind must be a text"),
        ("name: a\nkind: code\ndata:", "data must be a text, not None"),
        ("name: a\nkind: code\ndata: x\nprompt: 5", "prompt must be a text, not 5"),
        ("name: a\nkind: code", "one of data and hub"),
        ("name: a\nkind: code\ndata: x\nprompt: hi", "prompt must contain"),
        ("name: a\nkind: code\ndata: x\nscorer: y", "unknown key scorer"),
        ("- a", "must be a mapping"),
        ("name: [", "is not YAML"),
    ],
)
def test_wrong_task_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "task.yaml"
    path.write_text(text)
    with pytest.raises(EvaluationError, match=message):
        load_task(str(path))


def test_unknown_task_lists_the_shipped_ones() -> None:
    with pytest.raises(EvaluationError, match="aime24, aime25, aime26, gpqa_diamond, gsm8k"):
        load_task("mmlu")


@pytest.fixture
def parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Write rows as a parquet file; the arguments under which `datasets` loads it."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def write(rows: list[dict[str, Any]]) -> dict[str, Any]:
        pd.DataFrame(rows).to_parquet(tmp_path / "rows.parquet")
        return {"path": "parquet", "data_files": str(tmp_path / "rows.parquet"), "split": "train"}

    return write


def test_gpqa_rows(parquet: Callable[..., dict[str, Any]]) -> None:
    rows = [
        {
            "Record ID": f"rec{i}",
            "Question": f"Question {i}?\n",
            "Correct Answer": f"right {i}\n",
            **{f"Incorrect Answer {j}": f"wrong {i} {j}" for j in (1, 2, 3)},
        }
        for i in range(100)
    ]
    items = load_items("gpqa.yaml", {"rows": "gpqa", **parquet(rows)})
    for i, item in enumerate(items):
        assert item.options["ABCD".index(item.expected_answer)] == f"right {i}"
        assert sorted(item.options) == sorted(
            [f"right {i}", *(f"wrong {i} {j}" for j in (1, 2, 3))]
        )
    assert min(Counter(item.expected_answer for item in items).values()) > 10
    # The order is the question's own: it does not change with its place in the file.
    again = load_items("gpqa.yaml", {"rows": "gpqa", **parquet(rows[::-1])})
    assert {item.id: item for item in again} == {item.id: item for item in items}


def _packed(tests: Any) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests)))).decode()


def _problem(question: str, date: str, private: str, **more: Any) -> dict[str, Any]:
    public = [{"input": "1", "output": "2", "testtype": "stdin"}]
    return {
        "question_id": question,
        "question_content": "Add one.",
        "contest_date": date,
        "starter_code": "",
        "public_test_cases": json.dumps(public),
        "private_test_cases": private,
        "metadata": "{}",
        **more,
    }


def test_matharena_rows(parquet: Callable[..., dict[str, Any]]) -> None:
    rows = [
        {"problem_idx": 1, "problem": "What is 1 + 1? ", "answer": 2},
        {"problem_idx": 2, "problem": "What is half of pi?", "answer": "\\frac{\\pi}{2}"},
    ]
    for row in rows:  # a column has one type
        row["answer"] = str(row["answer"])
    items = load_items("hmmt.yaml", {"rows": "matharena", **parquet(rows)})
    assert [(i.id, i.problem, i.expected_answer) for i in items] == [
        ("1", "What is 1 + 1?", "2"),
        ("2", "What is half of pi?", "\\frac{\\pi}{2}"),
    ]


def test_an_installed_package_saves_the_way_to_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AIME 2026 of sgl-eval: its layout, with two problems of ours."""
    folder = tmp_path / "sgl_eval" / "_vendored" / "nemo_skills" / "dataset" / "aime26"
    folder.mkdir(parents=True)
    lines = [{"id": f"aime26-{i}", "problem": f"{i}?", "expected_answer": str(i)} for i in (0, 1)]
    (folder / "test.txt").write_text("".join(json.dumps(line) + "\n" for line in lines))
    about = tmp_path / "sgl_eval-0.1.3.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: sgl-eval\nVersion: 0.1.3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    task = load_task("aime26")
    assert [item.expected_answer for item in task.items] == ["0", "1"]
    assert task.gold == "expr"


@pytest.mark.parametrize("name", ["aime26", "hmmt_feb26", "livecodebench_v6"])
def test_sets_of_2026_ask_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def load_dataset(**arguments: Any) -> Any:
        asked.update(arguments)
        raise ConnectionError("no network")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    with pytest.raises(EvaluationError, match="from the hub: no network"):
        load_task(name)
    paths = {"aime26": "MathArena/aime_2026", "hmmt_feb26": "MathArena/hmmt_feb_2026"}
    assert asked["path"] == paths.get(name, "livecodebench/code_generation_lite")
    assert asked.get("name") == ("release_v6" if name == "livecodebench_v6" else None)


def test_livecodebench_rows(parquet: Callable[..., dict[str, Any]]) -> None:
    private = [{"input": "5", "output": "6", "testtype": "stdin"}]
    rows = [
        _problem("b", "2024-08-01T00:00:00", _packed(private)),
        _problem("a", "2025-01-01T00:00:00", json.dumps(private), metadata='{"func_name": "f"}'),
        _problem("old", "2024-07-31T23:59:59", json.dumps(private)),
    ]
    hub = {"rows": "livecodebench", "since": "2024-08-01", **parquet(rows)}
    first, second = load_items("lcb.yaml", hub)
    assert (first.id, first.tests["fn_name"]) == ("a", "f")
    assert second.tests == {"inputs": ["1", "5"], "outputs": ["2", "6"], "fn_name": None}


class _Evil:
    def __reduce__(self) -> Any:
        return (print, ("executed",))


def test_a_pickle_that_calls_something_is_refused(parquet: Callable[..., dict[str, Any]]) -> None:
    evil = base64.b64encode(zlib.compress(pickle.dumps(_Evil()))).decode()
    hub = {"rows": "livecodebench", **parquet([_problem("a", "2025-01-01", evil)])}
    with pytest.raises(pickle.UnpicklingError, match="must not name"):
        load_items("lcb.yaml", hub)


def test_code_is_exported_and_executed(tmp_path: Path) -> None:
    tests = {"inputs": ["1\n"], "outputs": ["2"], "fn_name": None}
    task = Task("lcb", "code", tuple(Item(f"q{i}", "Add one.", tests=tests) for i in range(3)))
    store = RunStore(tmp_path)
    programs = {0: "print(int(input()) + 1)", 1: "print(0)"}
    for i, code in programs.items():
        record = {"task": "lcb", "sampler": "led", "temperature": 0.6, "id": f"q{i}", "sample": 0}
        record |= {"predicted_answer": code, "outcome": "ungraded"}
        store.append_sample(Key("lcb", "led", 0.6, f"q{i}", 0), record)
    (path,) = export(store, task)
    assert json.loads(path.read_text()) == [
        {"question_id": "q0", "code_list": [programs[0]]},
        {"question_id": "q1", "code_list": [programs[1]]},
        {"question_id": "q2", "code_list": []},
    ]
    execute(store, [task], seconds=5)
    execute(store, [task], seconds=5)  # nothing is judged twice
    verdicts = tmp_path / "code_verdicts.jsonl"
    content = verdicts.read_bytes()
    lines = content.splitlines(keepends=True)
    assert [json.loads(line)["verdict"] for line in lines] == ["correct", "wrong"]
    # Whatever a kill, a full disk or a crash left of them, only what is lost is judged again.
    for left in (b"", lines[0][:9], content[:-1], lines[0], lines[0] + bytes(99)):
        verdicts.write_bytes(left)
        assert len(read_verdicts(store)) == left.count(b"\n")
        execute(store, [task], seconds=5)
        assert verdicts.read_bytes() == content


@pytest.mark.parametrize(
    ("content", "reasoning", "finish", "opened", "answer", "closed"),
    [
        ("thought</think>\n\n7", None, "stop", True, "\n\n7", True),
        ("<think>thought</think>7", None, "stop", False, "7", True),
        ("a</think>1<think>b</think>2", None, "stop", True, "2", True),
        ("thought without end", None, "length", True, "", False),
        ("thought without end", None, "stop", True, "", False),
        ("<think>thought", None, "length", False, "", False),
        ("an answer cut of", None, "length", False, "an answer cut of", True),
        ("cut off, who knows where", None, "length", None, "", False),
        ("an answer", None, "stop", None, "an answer", True),
        ("7", "thought", "stop", True, "7", True),
        ("", "thought", "length", True, "", False),
    ],
)
def test_answer_part(
    content: str, reasoning: str | None, finish: str, opened: bool | None, answer: str, closed: bool
) -> None:
    parts = split_thinking(content, reasoning, finish, Delimiters(opened=opened))
    assert (parts.answer, parts.closed) == (answer, closed)
