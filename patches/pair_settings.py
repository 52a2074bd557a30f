"""The two servers of a prefill/decode pair are started alike, or answer nothing.

A decode server asks a prefill server's bootstrap server what it is, before its first request. LED's
settings are part of that answer. Every request of a server with other settings, or without LED,
ends with a sentence; both servers go on, since either may have other partners.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from sglang.srt.disaggregation.base import KVPoll
from sglang.srt.disaggregation.common.conn import PrefillServerInfo

from led_sglang.patches.hooks import hook
from led_sglang.patches.published import pair_role, settings_or_none
from led_sglang.patches.ranks import described, other_settings

logger = logging.getLogger(__name__)


def _own_settings() -> dict[str, Any] | None:
    """What a prefill server tells of itself; a decode server knows what it has been told alone."""
    settings = settings_or_none()
    return described(settings) if settings is not None and pair_role() == "prefill" else None


@hook("disaggregation.common.conn.PrefillServerInfo", "REPLACE")
@dataclass
class PrefillWithLed(PrefillServerInfo):
    """What a decode server learns of a prefill server.

    A decode server without LED knows no such field: it says so in its log, and refuses its requests
    since it cannot read the answer.
    """

    this_prefill_server_needs_led_on_the_decode_server_too: dict[str, Any] | None = field(
        default_factory=_own_settings
    )


@hook("disaggregation.common.conn.CommonKVReceiver.init", "AROUND")
def _refuse_another_prefill(original: Any, self: Any, prefill_dp_rank: int) -> None:
    """As SGLang itself ends the requests of a server with which it cannot work."""
    settings = settings_or_none()
    prefill = self.kv_mgr.prefill_info_table.get(self.bootstrap_addr)
    if settings is None or prefill is None or self.conclude_state == KVPoll.Failed:
        original(self, prefill_dp_rank)
        return
    problem = unlike(
        described(settings),
        prefill.this_prefill_server_needs_led_on_the_decode_server_too,
        self.bootstrap_addr,
    )
    if not problem:
        original(self, prefill_dp_rank)
        return
    self.kv_mgr.record_failure(self.bootstrap_room, problem)
    self.kv_mgr.update_status(self.bootstrap_room, KVPoll.Failed)
    self.conclude_state = KVPoll.Failed


def unlike(decode: dict[str, Any], prefill: dict[str, Any] | None, address: str) -> str:
    """Why a decode server does not take the requests of a prefill server; empty where it does.

    Args:
        decode, prefill: their settings, see `ranks.described`; None without LED.
        address: of the prefill server's bootstrap server.
    """
    if prefill is None:
        return (
            f"the prefill server of {address} decodes without LED, and this decode server with it; "
            "start both with `led-sglang serve` and the same flags (--sampler regular keeps LED "
            "out of both)"
        )
    places = {0: "the prefill server", 1: "the decode server"}
    differing = other_settings({0: prefill, 1: decode}, places)
    if not differing:
        return ""
    return (
        f"the prefill server of {address} and this decode server have different LED settings: "
        f"{differing}; start both with the same flags and the same model"
    )
