"""Room for what speculation reserves beyond a request's last token."""

from __future__ import annotations

from sglang.srt.mem_cache.allocation_sizing import get_alloc_reserve_per_decode
from sglang.srt.runtime_context import get_spec

from led_sglang.patches.hooks import hook


@hook("mem_cache.allocation_sizing.get_req_to_token_extra_context_len", "AFTER")
def _room_for_the_reserve(result: int) -> int:
    """How far a request's row of KV slots goes beyond the context.

    SGLang leaves room for one draft and reserves two or more, so that near the end of the context
    the reserve of one request would be written into the row of another.
    """
    if get_spec().speculative_algorithm is None:
        return result
    return max(result, get_alloc_reserve_per_decode() + get_spec().speculative_num_draft_tokens)
