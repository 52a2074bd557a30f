"""`--launch`: a server of this package, started for the run and ended with it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from led_sglang.common.client import ServerError
from led_sglang.common.server_process import running_server
from led_sglang.evaluation import EvaluationError

_ENABLE = "--enable-samplers"


@contextmanager
def launched(arguments: str, samplers: Sequence[str], log: Path) -> Iterator[str]:
    """Run `led-sglang serve ARGUMENTS`; yields its URL once it answers.

    It offers `samplers` unless the arguments say themselves what it offers.

    Raises:
        EvaluationError: it ended before it answered; the message shows the end of its log.
    """
    try:
        flags = shlex.split(arguments)
    except ValueError as error:
        raise EvaluationError(
            f"--launch {arguments!r} cannot be split into flags: {error}"
        ) from None
    if not any(flag.partition("=")[0] == _ENABLE for flag in flags):
        flags += [_ENABLE, ",".join(dict.fromkeys(samplers))]
    with ExitStack() as stack:
        try:
            url = stack.enter_context(running_server(flags, log))
        except ServerError as error:
            raise EvaluationError(f"{error}") from None
        yield url
