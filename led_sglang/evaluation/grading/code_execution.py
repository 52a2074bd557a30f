"""Runs a generated program against its tests, confined; only when the user has asked for it.

Verdicts depend on the speed of the machine, so programs run one at a time. A program is right if
it passes every test; the first failure ends it.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from led_sglang.evaluation import EvaluationError
from led_sglang.evaluation.grading import confine, solution

SECONDS_PER_TEST = 6.0
MEMORY_BYTES = 4 << 30
OUTPUT_BYTES = 16 << 20

# For Python to start, and to end.
_SPARE_SECONDS = 4.0


def judge(code: str, tests: Mapping[str, Any], *, seconds: float = SECONDS_PER_TEST) -> str:
    """Verdict on a program: "correct", "wrong", "timeout" or "error" (it crashed).

    Args:
        code: Python source.
        tests: `inputs`, `outputs` (texts of equal number) and `fn_name`; with a name, a line of
            the input is one JSON argument and the output is the JSON value; without, they are
            standard input and output.
        seconds: wall clock of each test, and again of loading the program before it.

    Raises:
        EvaluationError: programs cannot be confined on this machine.
    """
    name = tests.get("fn_name")
    if name is not None and not str(name).isidentifier():
        raise EvaluationError(f"fn_name {name!r} is no name of a function")
    for given, wanted in zip(tests["inputs"], tests["outputs"], strict=True):
        arguments = [line for line in given.split("\n") if line.strip()] if name else []
        job = {"code": code, "fn_name": name, "arguments": arguments, "seconds": seconds}
        verdict, output = run_confined(
            Path(solution.__file__).read_text(encoding="utf-8"),
            "" if name else given,
            seconds=2 * seconds + _SPARE_SECONDS,
            job=json.dumps(job),
        )
        if verdict:
            return verdict
        if not (same_output if name is None else _same_value)(output, wanted):
            return "wrong"
    return "correct"


def run_confined(
    code: str, standard_input: str, *, seconds: float, job: str = ""
) -> tuple[str, str]:
    """Run a program in a scratch directory of its own.

    Args:
        seconds: wall clock of the process.
        job: text of `job.json` beside the program.

    Returns:
        What went wrong ("timeout", "error" or nothing) and its standard output.

    Raises:
        EvaluationError: programs cannot be confined on this machine.
    """
    limits = {"memory": MEMORY_BYTES, "cpu_seconds": int(seconds) + 1, "file_bytes": OUTPUT_BYTES}
    with tempfile.TemporaryDirectory(prefix="led-eval-") as scratch:
        folder = Path(scratch)
        program, output, errors = (folder / name for name in ("solution.py", "out", "err"))
        program.write_text(code, encoding="utf-8", errors="replace")
        (folder / "job.json").write_text(job, encoding="utf-8")
        python = (sys.executable, "-I", "-X", "utf8")
        with output.open("wb") as out, errors.open("wb") as err:
            try:
                status = subprocess.run(
                    [*python, confine.__file__, json.dumps(limits), str(program)],
                    input=standard_input.encode("utf-8", "replace"),
                    stdout=out,
                    stderr=err,
                    cwd=folder,
                    env={"OMP_NUM_THREADS": "1", "LANG": "C.UTF-8"},
                    timeout=seconds,
                    start_new_session=True,
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired:
                return "timeout", ""
        if status == confine.CANNOT_CONFINE:
            raise EvaluationError(errors.read_text(errors="replace").strip())
        if status == -signal.SIGALRM:
            return "timeout", ""
        # Not as text, which would end a line at a carriage return.
        return ("error" if status else ""), output.read_bytes().decode("utf-8", "replace")


def same_output(output: str, wanted: str) -> bool:
    """Same lines up to white space around them, or lines of the same numbers."""
    ours, theirs = ([*map(str.strip, text.strip().split("\n"))] for text in (output, wanted))
    return len(ours) == len(theirs) and all(map(_same_line, ours, theirs))


def _same_line(ours: str, theirs: str) -> bool:
    if ours == theirs:
        return True
    try:
        return [Decimal(x) for x in ours.split()] == [Decimal(x) for x in theirs.split()]
    except InvalidOperation:
        return False


def _same_value(output: str, wanted: str) -> bool:
    def whole_number(digits: str) -> int:
        return int(Decimal(digits))  # `int` alone refuses more than 4,300 digits

    try:
        ours, theirs = (json.loads(text, parse_int=whole_number) for text in (output, wanted))
    except ValueError:
        return False
    return bool(ours == theirs)
