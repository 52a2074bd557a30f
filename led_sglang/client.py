"""The client of a server, by the name that snippets written for earlier versions import it from."""

from __future__ import annotations

from led_sglang.common.client import ServerClient, ServerError

__all__ = ["ServerClient", "ServerError"]
