"""A process that grades one JSON line after another: `python -m ...grading_worker SECONDS`.

A grade that takes longer ends the process by SIGALRM, whatever it is stuck in, and also where
the run that asked has itself been killed. End of input ends it too.
"""

from __future__ import annotations

import json
import logging
import resource
import signal
import sys
from contextlib import suppress
from dataclasses import asdict

from led_sglang.evaluation.grading.graders import Grade, Question, grade, python_grader

# Symbolic powers can ask for more memory than there is.
MEMORY_BYTES = 4 << 30


def main() -> None:
    seconds = float(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    # Math-Verify warns once that its timeouts are off; they are, on purpose.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    # The first grade pays for the imports: not on its clock.
    grade(Question("math", gold="1", text="1"))
    for line in sys.stdin:
        question = Question(**json.loads(line))
        if question.grader:  # what a user's file imports is not on the clock either
            with suppress(Exception):
                python_grader(question.grader)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            verdict = grade(question)
        except (Exception, RecursionError, MemoryError):
            verdict = Grade(correct=False, predicted=None, problem="error")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(asdict(verdict)), flush=True)


if __name__ == "__main__":
    main()
