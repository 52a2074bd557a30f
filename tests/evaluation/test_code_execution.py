"""Generated programs: verdicts, and what a confined program cannot do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from code_cases import DIFFERENT, OFFICIAL

from led_sglang.evaluation.grading.code_execution import judge, run_confined, same_output

ADD = {"inputs": ["3 4\n", "1 1\n"], "outputs": ["7\n", "2"], "fn_name": None}
METHOD = {"inputs": ["[1, 2]\n3"], "outputs": ["[3, 3]"], "fn_name": "add"}


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        ("a, b = map(int, input().split())\nprint(a + b)", "correct"),
        ("print(7)", "wrong"),  # right on the first test only
        ("print(", "error"),
        ("1 / 0", "error"),
        ("while True: pass", "timeout"),
        ("import time\ntime.sleep(60)", "timeout"),
        ("x = 'a' * (5 << 30)\nprint(7)", "error"),
        ("while True: print('x' * 100000)", "error"),
        (
            "import sys, threading\nthreading.stack_size(1 << 26)\n"
            "def main(): print(sum(map(int, input().split())))\n"
            "t = threading.Thread(target=main)\nt.start()\nt.join()",
            "correct",
        ),
    ],
)
def test_verdict(code: str, verdict: str) -> None:
    assert judge(code, ADD, seconds=3) == verdict


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        ("class Solution:\n  def add(self, a: List[int], b):\n    return sum(a), b", "correct"),
        ("def add(a, b):\n  print('debug')\n  return [sum(a), b]", "correct"),
        ("def add(a, b):\n  return [b, b + 1]", "wrong"),
        ("def sub(a, b):\n  return 1", "error"),
    ],
)
def test_verdict_on_a_function(code: str, verdict: str) -> None:
    assert judge(code, METHOD, seconds=3) == verdict


@pytest.mark.parametrize(("tests", "code", "verdict"), OFFICIAL.values(), ids=OFFICIAL)
def test_verdict_is_that_of_the_official_checker(
    tests: dict[str, Any], code: str, verdict: str
) -> None:
    assert judge(code, tests, seconds=3) == verdict


@pytest.mark.parametrize(("tests", "code", "ours", "theirs"), DIFFERENT.values(), ids=DIFFERENT)
def test_where_the_verdict_stays_different(
    tests: dict[str, Any], code: str, ours: str, theirs: str
) -> None:
    assert judge(code, tests, seconds=1) == ours != theirs


@pytest.mark.parametrize(
    "attempt",
    [
        "import socket; socket.socket()",
        "import urllib.request as r; r.urlopen('http://127.0.0.1:9/')",
        "import os; os.fork()",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.kill(os.getppid(), 0)",
        "import os; os.setsid()",
        "import os; os.chroot('.')",
        "open('OUTSIDE', 'w')",
        "import os; os.remove('OUTSIDE')",
        "import os; os.truncate('OUTSIDE', 0)",
        "import os; os.rename('OUTSIDE', 'x')",
        "import os; os.mkdir('OUTSIDE2')",
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    ],
)
def test_confined_program_cannot(attempt: str, tmp_path: Path) -> None:
    outside = tmp_path / "file"
    outside.write_text("untouched")
    code = attempt.replace("OUTSIDE", str(outside))
    # It prints, so it ran; and the attempt itself, not the code around it, failed.
    program = (
        f"try:\n  {code}\nexcept (OSError, ValueError) as e:\n  print('refused')\n"
        "else:\n  print('done')"
    )
    problem, output = run_confined(program, "", seconds=5)
    assert (problem, output) == ("", "refused\n")
    assert outside.read_text() == "untouched"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_confined_program_may_write_in_its_scratch_directory() -> None:
    code = "open('f', 'w').write('x')\nprint(open('f').read())"
    assert run_confined(code, "", seconds=5) == ("", "x\n")


@pytest.mark.parametrize(
    ("output", "wanted", "same"),
    [
        ("1 2\n3\n", "1 2\n3", True),
        ("1 2 \n 3", "1 2\n3", True),
        ("1.0 2", "1 2.00", True),
        ("1 2", "1\n2", False),
        ("yes", "Yes", False),
        ("", "1", False),
        ("1 2 3", "1 2", False),
    ],
)
def test_same_output(output: str, wanted: str, same: bool) -> None:
    assert same_output(output, wanted) == same
