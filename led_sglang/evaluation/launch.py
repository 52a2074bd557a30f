"""`--launch`: a server of this package, started for the run and ended with it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from led_sglang.client import ServerError
from led_sglang.evaluation import EvaluationError
from led_sglang.server_process import running_server


@contextmanager
def launched(arguments: str, log: Path) -> Iterator[str]:
    """Run `led-sglang serve ARGUMENTS`; yields its URL once it answers.

    Raises:
        EvaluationError: it ended before it answered; the message shows the end of its log.
    """
    with ExitStack() as stack:
        try:
            url = stack.enter_context(running_server(shlex.split(arguments), log))
        except ServerError as error:
            raise EvaluationError(f"{error}") from None
        yield url
