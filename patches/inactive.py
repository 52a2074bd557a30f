"""A server that was started without LED: a request that asks for it is refused.

SGLang would ignore what it does not know and answer with its own sampler.
"""

from __future__ import annotations

from collections.abc import Awaitable
from http import HTTPStatus
from typing import Any

from led_sglang.methods.placement import named_method
from led_sglang.patches.hooks import hook


@hook("entrypoints.http_server.ORJSONRequest.json", "AFTER")
def _read_body(parsing: Awaitable[Any], self: Any) -> Awaitable[Any]:
    return _checked(parsing)


async def _checked(parsing: Awaitable[Any]) -> Any:
    from fastapi import HTTPException

    body = await parsing
    name = named_method(body)
    if name is not None:
        raise HTTPException(
            HTTPStatus.BAD_REQUEST,
            f"the request asks for {name}, and this server was started without it: start it with "
            f"led-sglang serve --sampler {name}, or leave {name} out of the request",
        )
    return body
