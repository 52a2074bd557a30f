"""A prefill/decode pair on this machine, behind a gateway as plain as one can be."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from harness import REQUEST_TIMEOUT_S, Server, serve

from led_sglang.common.server_process import free_port

# A real transfer engine, over TCP on loopback.
TRANSFER = ("--disaggregation-transfer-backend", "mooncake_tcp")
ENVIRONMENT = {
    "SGLANG_HOST_IP": "127.0.0.1",
    "SGLANG_LOCAL_IP_NIC": "lo",
    "SGLANG_ENABLE_DISAGG_SAMPLING_MASK": "1",
    # Seconds until a request ends whose other half does not come.
    "SGLANG_DISAGGREGATION_BOOTSTRAP_TIMEOUT": "30",
    "SGLANG_DISAGGREGATION_WAITING_TIMEOUT": "30",
}


class Gateway:
    """Sends every request to both servers and hands on what the decode server answers.

    An abort goes to one of the two, as `abort_at` says. A client that hangs up ends both requests.
    """

    def __init__(self, prefill: Server, decode: Server, bootstrap_port: int) -> None:
        self._urls = {"prefill": prefill.url, "decode": decode.url}
        self.bootstrap_port = bootstrap_port
        self.abort_at = ("prefill", "decode")
        self.port = free_port()

    @contextmanager
    def running(self) -> Iterator[None]:
        """It answers in a thread of its own."""
        loop, started = asyncio.new_event_loop(), threading.Event()

        async def start() -> None:
            timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
            connector = aiohttp.TCPConnector(limit=0, force_close=True)
            self._http = aiohttp.ClientSession(timeout=timeout, connector=connector)
            application = web.Application(client_max_size=2**26)
            application.router.add_route("*", "/{path:.*}", self._answer)
            # With a client that has gone its request ends here, and at the servers.
            self._runner = web.AppRunner(application, handler_cancellation=True)
            await self._runner.setup()
            await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
            started.set()

        async def stop() -> None:
            await self._http.close()
            await self._runner.cleanup()
            loop.stop()

        loop.create_task(start())
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        assert started.wait(30)
        try:
            yield
        finally:
            asyncio.run_coroutine_threadsafe(stop(), loop)
            thread.join()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            return await self._hand_on(request, "decode", None)
        body = await request.json()
        if "abort" in request.path:
            return await self._hand_on(request, random.choice(self.abort_at), body)
        body |= {"bootstrap_host": "127.0.0.1", "bootstrap_port": self.bootstrap_port}
        body |= {"bootstrap_room": random.SystemRandom().randrange(2**62)}
        prefill = asyncio.create_task(self._read(request.path, body | {"stream": False}))
        try:
            return await self._hand_on(request, "decode", body)
        finally:
            prefill.cancel()
            with suppress(asyncio.CancelledError, aiohttp.ClientError):
                await prefill

    async def _read(self, path: str, body: dict[str, Any]) -> bytes:
        async with self._http.post(self._urls["prefill"] + path, json=body) as answer:
            return await answer.read()

    async def _hand_on(self, request: web.Request, role: str, body: Any) -> web.StreamResponse:
        url = self._urls[role] + request.path_qs
        async with self._http.request(request.method, url, json=body) as answer:
            kept = {k: v for k, v in answer.headers.items() if k.lower().startswith("x-led")}
            kept["content-type"] = answer.headers.get("content-type", "text/plain")
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            with suppress(ConnectionResetError):  # the client has gone
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
                await response.write_eof()
            return response


class Pair(Server):
    """The gateway, to which `post`, `get` and `generate` talk, and the servers behind it."""

    def __init__(self, prefill: Server, decode: Server, gateway: Gateway) -> None:
        super().__init__(decode.process, gateway.port, decode.log)
        self.prefill, self.decode, self.gateway = prefill, decode, gateway

    @contextmanager
    def another_decode_server(self, model: Path | str, *flags: str) -> Iterator[Pair]:
        """The same prefill server with a new decode server, behind a gateway of their own."""
        port = self.gateway.bootstrap_port
        with serve(model, *_role("decode", port), *flags, env=ENVIRONMENT) as decode:
            gateway = Gateway(self.prefill, decode, port)
            with gateway.running():
                yield Pair(self.prefill, decode, gateway)


def _role(role: str, bootstrap_port: int) -> tuple[str, ...]:
    meeting = ("--disaggregation-bootstrap-port", str(bootstrap_port))
    return (*TRANSFER, "--disaggregation-mode", role, *meeting)


@contextmanager
def serve_pair(
    model: Path | str,
    *flags: str,
    prefill: Sequence[str] = (),
    decode: Sequence[str] = (),
    **how: Any,
) -> Iterator[Pair]:
    """Start both servers at once, and the gateway.

    Args:
        model, flags: of both.
        prefill, decode: further flags of one.
        how: see `serve`; a list has a value for the prefill and one for the decode server.
    """
    port = free_port()
    with ExitStack() as stack, ThreadPoolExecutor(2) as pool:

        def start(number: int) -> Server:
            own = {k: v[number] if isinstance(v, list) else v for k, v in how.items()}
            own["env"] = ENVIRONMENT | own.get("env", {})
            role = _role(("prefill", "decode")[number], port)
            server = serve(model, *role, *flags, *(prefill, decode)[number], **own)
            return stack.enter_context(server)

        servers = list(pool.map(start, range(2)))
        gateway = Gateway(*servers, port)
        stack.enter_context(gateway.running())
        yield Pair(*servers, gateway)
