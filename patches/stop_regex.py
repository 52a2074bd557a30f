"""`stop_regex`: refused where it is no regular expression, cut off where it backtracks for ever.

SGLang searches for it in the scheduler after every token, and all requests wait meanwhile.
"""

from __future__ import annotations

import re
import signal
import threading
from http import HTTPStatus
from typing import Any, NoReturn

from led_sglang.methods.values import ParameterError
from led_sglang.patches.hooks import hook
from led_sglang.patches.published import settings_or_none

# Of processor time, for all expressions of a request after one token; they take microseconds.
_LIMIT_S = 1.0


@hook("sampling.sampling_params.SamplingParams.normalize", "AROUND")
def _check_expressions(original: Any, self: Any, tokenizer: Any) -> None:
    if settings_or_none() is None:
        return original(self, tokenizer)
    try:
        original(self, tokenizer)
        for expression in self.stop_regex_strs:
            re.compile(expression)
    except (re.error, RecursionError, OverflowError) as error:
        raise ParameterError(f"stop_regex is no regular expression of Python: {error}") from None


@hook("managers.schedule_batch.Req._check_str_based_finish", "AROUND")
def _limit_the_search(original: Any, self: Any, new_accepted_len: int = 1) -> Any:
    if not self.sampling_params.stop_regex_strs or not _one_scheduler():
        return original(self, new_accepted_len)
    from sglang.srt.managers.schedule_batch import FINISH_ABORT

    before = signal.signal(signal.SIGVTALRM, _stop)
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, _LIMIT_S)
        try:
            return original(self, new_accepted_len)
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    except re.error as error:  # SGLang itself catches what is raised in the first search
        self.finished_reason = FINISH_ABORT(
            f"invalid stop_regex: {error}", HTTPStatus.BAD_REQUEST, "BadRequestError"
        )
        return False
    finally:
        signal.signal(signal.SIGVTALRM, before)


def _one_scheduler() -> bool:
    """Ranks have to end a request at the same token, and their clocks differ."""
    from sglang.srt.runtime_context import get_parallel

    return get_parallel().tp_size == 1 and threading.current_thread() is threading.main_thread()


def _stop(*_: Any) -> NoReturn:
    """Python's `re` runs signal handlers while it searches."""
    raise re.error(f"a search took more than {_LIMIT_S:.0f} s, as nested repetitions may")
