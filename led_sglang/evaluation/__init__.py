"""`led-sglang eval`: does LED help a model? Generation, grading, statistics and a report.

Life of a sample: tasks -> prompts -> client (the server) -> thinking -> graders (in workers) ->
store (one JSON line) -> metrics -> report. Nothing here imports SGLang: the endpoint may be on
another machine.
"""

from __future__ import annotations

from led_sglang.common.terminal import CommandError


class EvaluationError(CommandError):
    """The run cannot start or go on; the message is for the user. Finished samples are kept."""
