"""A logit processor that leads a request through given tokens; servers import it by this name."""

from __future__ import annotations

from typing import Any

import torch
from sglang.srt.sampling.custom_logit_processor import CustomLogitProcessor


class ForcedTokens(CustomLogitProcessor):
    """The first steps keep one logit each, of the tokens in `forced`; later steps keep all."""

    def __call__(self, logits: torch.Tensor, custom_param_list: Any = None) -> torch.Tensor:
        for row, params in enumerate(custom_param_list):
            # Counted here: under the overlap scheduler a request learns its tokens one step late.
            step = params["forced_steps"] = params.get("forced_steps", -1) + 1
            if step < len(params["forced"]):
                token = params["forced"][step]
                logits[row, :token] = -float("inf")
                logits[row, token + 1 :] = -float("inf")
        return logits
