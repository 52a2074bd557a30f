"""Who answered: the resolved sampler in `meta_info` and in a header of every sampled answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from http import HTTPStatus
from typing import Any

from led_sglang.common.answers import ANSWERED_BY, SAMPLER_HEADER
from led_sglang.methods.request import parse_request
from led_sglang.patches.hooks import hook
from led_sglang.patches.published import settings_or_none

# Of an ASGI scope: the header's value.
_SCOPE_KEY = "led_sglang.samplers"
# Of SGLang's request objects: what goes to `meta_info`.
_REPORT_ATTRIBUTE = "_led_answered_by"


def tell(scope: dict[str, Any], samplers: Iterable[str]) -> None:
    """Have the answer's header name its samplers, each once; a batch may be of several.

    Args:
        scope: of the HTTP request, by ASGI.
    """
    scope[_SCOPE_KEY] = ", ".join(dict.fromkeys(samplers)).encode()


class SamplerHeader:
    """ASGI middleware that puts `x-led-sampler` on the answers whose requests were told of.

    A stream's headers leave before its first token, and so before anything is sampled: the sampler
    is known since the request was checked. Refusals carry none.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        async def send_named(message: dict[str, Any]) -> None:
            starts = message["type"] == "http.response.start"
            if starts and _SCOPE_KEY in scope and message["status"] < HTTPStatus.BAD_REQUEST:
                header = (SAMPLER_HEADER.encode(), scope[_SCOPE_KEY])
                message["headers"] = [*message.get("headers", ()), header]
            await send(message)

        await self._app(scope, receive, send_named if scope["type"] == "http" else send)


@hook("managers.tokenizer_manager.TokenizerManager._create_tokenized_object", "AFTER")
def _resolve_the_report(result: Any, self: Any, obj: Any, *_: Any, **__: Any) -> None:
    """Once per request, from the parameters that go to the scheduler."""
    settings = settings_or_none()
    if settings is not None:
        custom_params = result.sampling_params.custom_params
        sampling = parse_request(custom_params, settings, foreign_keys=True)
        setattr(obj, _REPORT_ATTRIBUTE, sampling.report())


@hook("managers.tokenizer_manager.TokenizerManager._wait_one_response", "AROUND")
async def _report_in_meta_info(
    original: Any, self: Any, obj: Any, *args: Any, **kwargs: Any
) -> AsyncIterator[Any]:
    report = getattr(obj, _REPORT_ATTRIBUTE, None)
    async with aclosing(original(self, obj, *args, **kwargs)) as answers:
        async for answer in answers:
            if report is not None:
                answer["meta_info"][ANSWERED_BY] = report
            yield answer
