"""Where an answer ends inside a draft: at the first stop, as without drafts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from led_sglang.patches.batch_state import notes_of
from led_sglang.patches.hooks import hook


@hook("managers.schedule_batch.Req.update_finish_state", "AROUND")
def _look_token_by_token(
    original: Callable[[Any, int], None], self: Any, new_accepted_len: int = 1
) -> None:
    """SGLang looks at all tokens of a verification together, and takes the first stop string of the
    request's list, and a stop string before an end of the answer, whichever came first."""
    asked = self.sampling_params
    if (
        new_accepted_len < 2
        or not (asked.stop_strs or asked.stop_regex_strs)
        or self.grammar is not None  # it has been told of all these tokens
        or notes_of(self) is None
    ):
        original(self, new_accepted_len)
        return
    tokens = self.output_ids
    drafted = tokens[-new_accepted_len:]
    del tokens[-new_accepted_len:]
    before = len(tokens)
    try:
        for token in drafted:
            tokens.append(token)
            original(self, 1)
            if self.finished():
                self.finished_len = self.finished_len or len(tokens)
                break
    finally:
        tokens.extend(drafted[len(tokens) - before :])
