"""The server's settings on SGLang's arguments, which every process of the server receives."""

from __future__ import annotations

from typing import Any

from led_sglang.settings import ServerSettings

# Of ServerArgs: no field, and pickled to every child process.
_SETTINGS_ATTRIBUTE = "_led_settings"


def publish_settings(server_args: Any, settings: ServerSettings) -> None:
    """Put the settings where `settings_or_none` finds them, in this process and its children."""
    setattr(server_args, _SETTINGS_ATTRIBUTE, settings)


def settings_or_none() -> ServerSettings | None:
    """Settings of the server this process belongs to; None where LED has no part in it."""
    from sglang.srt.runtime_context import get_server_args

    try:
        server_args = get_server_args()
    except ValueError:  # nothing published yet
        return None
    return getattr(server_args, _SETTINGS_ATTRIBUTE, None)


def pair_role() -> str:
    """This server's part in a pair: "prefill" or "decode", or "null" where it is none."""
    from sglang.srt.runtime_context import get_disagg

    role: str = get_disagg().disaggregation_mode
    return role
