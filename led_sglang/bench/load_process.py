"""Loads `sglang.bench_serving` once and runs it in a fork for every line of flags on its input.

    python -m led_sglang.bench.load_process LOG

Reads JSON lists of flags, one a line; answers each with the exit status.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import traceback

from led_sglang.common.server_process import die_with_parent

_MODULE = "sglang.benchmark.serving"


def main() -> None:
    die_with_parent()
    # Its imports, which every fork then finds loaded; it runs nothing under another name.
    runpy.run_module(_MODULE, run_name="loaded")
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os._exit(_run(json.loads(line)))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run(flags: list[str]) -> int:
    die_with_parent()
    log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = [_MODULE, *flags]
    status: object = 0
    try:
        runpy.run_module(_MODULE, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status if isinstance(status, int) else 0 if status is None else 1


if __name__ == "__main__":
    main()
