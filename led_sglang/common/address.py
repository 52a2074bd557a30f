"""The address of a server as people write it, and the sentences for one that is not there."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from led_sglang.common.terminal import CommandError

_WAY_OUT = "start one with `led-sglang serve`, or name another address"
# What people copy along with the address: a path of the API.
_API_PATH = re.compile(r"/+(v1(/.*)?|generate|server_info|health)?/*$")
_HOST = re.compile(r"[\w.:%-]*[^\W\d][\w.:%-]*|\d+(\.\d+){3}|[0-9a-f:.]*::?[0-9a-f:.]*", re.I)


class ServerError(CommandError):
    """The server cannot be reached, refused a request, or lacks what is needed; one sentence."""


def server_url(text: str) -> str:
    """The base URL of a server, as `--base-url` takes it.

    Args:
        text: with or without `http://`, with or without `/v1` or another path of the API.

    Returns:
        Such as `http://localhost:30000`, without a trailing slash.

    Raises:
        ServerError: it is no address; one sentence.
    """
    url = text.strip()
    if "://" not in url:
        url = f"http://{url}"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.port != 0  # raises for no port
        # urlsplit takes any text for a host, a lone port too.
        usable = usable and _HOST.fullmatch(parts.hostname or "") is not None
        # `http:/host` and `http//host` are a host called http.
        path = _API_PATH.sub("", parts.path)
        usable = usable and not parts.netloc.endswith(":") and "//" not in path
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment:
        raise ServerError(f"{text!r} is no address of a server: write it as http://localhost:30000")
    return f"{parts.scheme}://{parts.netloc}{path}"


def unreachable(url: str, error: BaseException) -> ServerError:
    """The sentence for an HTTP library's error: nobody answers at `url`."""
    return ServerError(f"no answer from {url} ({_reason(error)}): {_WAY_OUT}")


def server_info(url: str, status: int, text: str) -> dict[str, Any]:
    """The content of an answer to GET /server_info.

    Args:
        url: base URL of the server.
        status: HTTP status of its answer.
        text: body of its answer.

    Raises:
        ServerError: it comes from no SGLang server, or from one that wants a key.
    """
    if status in (401, 403):
        raise ServerError(
            f"the server at {url} wants a key (HTTP {status}): set OPENAI_API_KEY to its --api-key"
        )
    try:
        content = json.loads(text)
    except ValueError:
        content = None
    if status == 200 and isinstance(content, dict) and "internal_states" in content:
        return content
    other = " with something else" if status == 200 else ""
    raise ServerError(
        f"the server at {url} is no SGLang server: its /server_info answers HTTP {status}{other}; "
        f"{_WAY_OUT}"
    )


def first_state(info: Mapping[str, Any]) -> dict[str, Any]:
    """What the first scheduler says of itself in a `/server_info`; `led` is LED's part."""
    states = info.get("internal_states") or [{}]
    return states[0] if isinstance(states[0], dict) else {}


def _reason(error: BaseException) -> str:
    """A few words: the operating system's own where an error of it lies underneath."""
    for cause in _causes(error):
        if isinstance(cause, socket.gaierror):
            return "unknown host"
        if isinstance(cause, TimeoutError) or "Timeout" in type(cause).__name__:
            return "timed out"
        if "SSL" in type(cause).__name__:
            return "it does not speak https"
        if isinstance(cause, OSError) and cause.errno and cause.strerror:
            return cause.strerror.lower()
    return str(error).partition("\n")[0][:200] or type(error).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and all it was raised from, the innermost first."""
    inner = [error.__cause__, error.__context__, getattr(error, "reason", None), *error.args]
    for cause in inner:
        if isinstance(cause, BaseException) and cause is not error:
            yield from _causes(cause)
    yield error
