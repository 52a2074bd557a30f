"""A gateway that passes on what it knows: no `custom_params`, no header of the server's."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import requests
from harness import REQUEST_TIMEOUT_S

# What a router that parses bodies into types of its own has no field for.
_UNKNOWN = ("custom_params", "return_meta_info")


def _known(body: Any) -> Any:
    if isinstance(body, dict):
        return {key: _known(value) for key, value in body.items() if key not in _UNKNOWN}
    return body


@contextmanager
def dropping_gateway(target: str) -> Iterator[str]:
    """Such a gateway in front of a server, in a thread; yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(requests.get(target + self.path, timeout=REQUEST_TIMEOUT_S))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            answer = requests.post(target + self.path, json=_known(body), timeout=REQUEST_TIMEOUT_S)
            self._answer(answer)

        def _answer(self, answer: requests.Response) -> None:
            self.send_response(answer.status_code)
            self.send_header("content-type", answer.headers["content-type"])
            self.send_header("content-length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *_: Any) -> None:
            pass

    gateway = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=gateway.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{gateway.server_port}"
    finally:
        gateway.shutdown()
        thread.join()
        gateway.server_close()
