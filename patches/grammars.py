"""A grammar that leaves no token: that request alone ends, and not the scheduler.

No text fits the grammar, or it has come to its end before `min_new_tokens`. SGLang then masks every
token; probabilities that are no numbers stop its sampler, and the server with it.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from led_sglang.patches.hooks import hook


@hook("sampling.sampling_batch_info.SamplingBatchInfo.apply_logits_bias", "AFTER")
def _leave_one_token(result: Any, self: Any, logits: Any) -> None:
    """Where every token is masked, token 0 is not: its grammar refuses it one step later."""
    if self.grammar_mask is not None:
        nothing_left = logits.amax(dim=-1) == -float("inf")
        logits[:, 0].masked_fill_(nothing_left, 0.0)


_PROCESSOR = "managers.scheduler_components.batch_result_processor.SchedulerBatchResultProcessor"


@hook(f"{_PROCESSOR}._apply_prefill_grammar", "AFTER")
def _explain_first(result: Any, self: Any, *, req: Any, **_: Any) -> None:
    _explain(req)


@hook(f"{_PROCESSOR}._accept_grammar_tokens", "AFTER")
def _explain_next(result: Any, self: Any, req: Any, tokens: Any) -> None:
    _explain(req)


def _explain(req: Any) -> None:
    """SGLang calls a token that the grammar refuses an internal error and prints the grammar."""
    from sglang.srt.managers.schedule_batch import FINISH_ABORT

    reason = req.to_finish
    if isinstance(reason, FINISH_ABORT) and reason.status_code == HTTPStatus.INTERNAL_SERVER_ERROR:
        req.to_finish = FINISH_ABORT(
            f"the grammar allows no token after the first {len(req.output_ids) - 1} of the answer: "
            "no text fits it, or it ends before min_new_tokens (min_tokens)",
            HTTPStatus.BAD_REQUEST,
            "BadRequestError",
        )
