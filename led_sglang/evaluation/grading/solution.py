"""Runs a generated program on one test, as the official LiveCodeBench checker does.

`confine.py` runs this file as its program. The file `job.json` beside it holds

    code          Python source
    fn_name       of the function to call, or null for a program that reads standard input
    arguments     of the call, one JSON text each
    seconds       wall clock for the program to load, and again to run

Standard output is the program's own, or the JSON text of the function's value and nothing else.
Time that is up ends the process with SIGALRM, an exception with status 1.

Standard library only: it runs outside the package.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import signal
import sys
from contextlib import suppress
from types import ModuleType
from typing import Any

# What a program may use without importing it: each module and all its names, of which those of a
# later module hide those of an earlier one.
_MODULES = (
    *("string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random"),
    *("statistics", "itertools", "functools", "operator", "io", "sys", "json", "builtins"),
    "typing",
)
_MAX_DIGITS = 50_000
_RECURSION_LIMIT = 50_000


def main() -> None:
    with open("job.json", encoding="utf-8") as file:
        job = json.load(file)
    sys.set_int_max_str_digits(_MAX_DIGITS)
    sys.setrecursionlimit(_RECURSION_LIMIT)
    if job["fn_name"] is None:
        _run_program(job["code"], job["seconds"])
    else:
        _print_value(job["code"], job["fn_name"], job["arguments"], job["seconds"])


def _run_program(code: str, seconds: float) -> None:
    """Run the statements of a program as the body of a function, whose names are fast."""
    module = _module("__main__")
    tree = ast.parse(code)
    imports = [s for s in tree.body if isinstance(s, (ast.Import, ast.ImportFrom))]
    others = [s for s in tree.body if not isinstance(s, (ast.Import, ast.ImportFrom))]
    # The names that its functions call global are the module's, as the program means them to be.
    names = sorted({n for s in ast.walk(tree) if isinstance(s, ast.Global) for n in s.names})
    (function,) = ast.parse("def _program_of_the_answer(): pass").body
    assert isinstance(function, ast.FunctionDef)
    function.body = [*([ast.Global(names)] if names else []), *(others or function.body)]
    tree.body = [*imports, function]
    _allow(seconds)
    exec(compile(ast.fix_missing_locations(tree), "solution.py", "exec"), module.__dict__)
    _allow(seconds)
    with suppress(SystemExit):  # whatever its status: the output counts
        module.__dict__[function.name]()


def _print_value(code: str, name: str, arguments: list[str], seconds: float) -> None:
    """Call a function, or a method of `Solution`; what it prints itself goes nowhere."""
    output = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    module = _module("solution")
    _allow(seconds)
    exec(compile(code, "solution.py", "exec"), module.__dict__)
    owner = module.__dict__["Solution"]() if "Solution" in module.__dict__ else module
    function = getattr(owner, name)
    given = [json.loads(argument) for argument in arguments]
    _allow(seconds)
    value = function(*given)
    text = json.dumps(_json_value(list(value) if isinstance(value, tuple) else value))
    with os.fdopen(output, "w", encoding="utf-8") as out:
        out.write(text)


def _module(name: str) -> ModuleType:
    """A module of that name with all that a program may use."""
    module = ModuleType(name)
    sys.modules[name] = module  # where dataclasses look for the names of annotations
    for used in _MODULES:
        exec(f"from {used} import *", module.__dict__)
    module.__dict__.update({used: importlib.import_module(used) for used in _MODULES})
    return module


def _allow(seconds: float) -> None:
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _json_value(value: Any) -> Any:
    """JSON that equals whatever JSON the value equals, or none where there is no such JSON.

    So a whole number may be a float or NumPy's, and a tuple in a list is no list.
    """
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, list):
        return [_json_value(part) for part in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _json_value(part) for key, part in value.items()}
    for number in (int, float):
        try:
            if number(value) == value:
                return number(value)
        except (TypeError, ValueError, OverflowError):
            continue
    return {"equal to no JSON": type(value).__name__}


if __name__ == "__main__":
    main()
