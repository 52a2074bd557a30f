"""Tell smg every model name of the servers behind it, so that a name can choose the sampler.

    python3 register_names.py http://GATEWAY:8080 http://SERVER-0:30000 http://SERVER-1:30000

smg 1.13 sends a request only to servers that it knows under the very name in its `model`, and takes
one name from each server. (With its own `--model-alias` it writes the other name into the request,
and the choice is lost.) A server that is registered once more, under a URL of its own and with
another name, gets that name as it stands; a zero more before the port makes another URL of the
same server.
Needs nothing but Python.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.error
import urllib.request
from typing import Any

_ANSWERS_WITHIN_S = 1800
_LOOK_EVERY_S = 2.0


def names(server: str) -> list[str]:
    """What a server lists behind its model's own name."""
    listed = _ask(f"{server}/v1/models")
    return [model["id"] for model in listed["data"][1:]]


def register(gateway: str, server: str) -> list[str]:
    """Register a server once for each of its names; returns them."""
    host, _, port = server.rstrip("/").rpartition(":")
    if not port.isdecimal():
        raise SystemExit(f"{server} needs its port, as in http://HOST:30000")
    found = names(server)
    for count, name in enumerate(found, start=1):
        worker = {"url": f"{host}:{'0' * count}{port}", "models": [{"id": name}]}
        _ask(f"{gateway}/workers", worker)
    return found


def _ask(url: str, body: Any = None) -> Any:
    """JSON of an answer; waits for whoever does not listen yet."""
    data = None if body is None else json.dumps(body).encode()
    deadline = time.monotonic() + _ANSWERS_WITHIN_S
    while True:
        request = urllib.request.Request(url, data, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise SystemExit(f"{url}: HTTP {error.code}, {error.read().decode()}") from None
        except OSError as error:
            if time.monotonic() > deadline:
                raise SystemExit(f"{url} cannot be reached: {error}") from None
            time.sleep(_LOOK_EVERY_S)


def wait_for(gateway: str, expected: set[str]) -> None:
    """Until the gateway lists all names: it registers in the background."""
    deadline = time.monotonic() + _ANSWERS_WITHIN_S
    while missing := expected - {m["id"] for m in _ask(f"{gateway}/v1/models")["data"]}:
        if time.monotonic() > deadline:
            raise SystemExit(f"{gateway} does not list {', '.join(sorted(missing))}")
        time.sleep(_LOOK_EVERY_S)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit((__doc__ or "").strip())
    front, *servers = sys.argv[1:]
    registered = {name for server in servers for name in register(front, server)}
    wait_for(front, registered)
    print(f"{front} knows {', '.join(sorted(registered))}")
