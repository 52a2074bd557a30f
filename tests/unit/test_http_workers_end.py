"""Ctrl-C ends uvicorn's workers, which do not hear of it, though a request of theirs runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import requests

from led_sglang.common.server_process import free_port

APP = """
import asyncio

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": message["type"] + ".complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] == "/slow":
        await asyncio.sleep(60)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})
"""
SERVER = """
import sys
import uvicorn
from led_sglang.common.terminal import finish
from led_sglang.patches.ending import ctrl_c_ends_requests

def serve() -> int:
    with ctrl_c_ends_requests():
        uvicorn.run("app:app", port=int(sys.argv[1]), workers=2, log_level="warning")
    return 0

if __name__ == "__main__":
    sys.exit(finish(serve))
"""


def test_ctrl_c_ends_workers_that_are_busy(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "server.py").write_text(SERVER)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [sys.executable, "server.py", str(port)], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    try:
        _wait_until_it_answers(url)
        workers = psutil.Process(server.pid).children(recursive=True)
        curl = [sys.executable, "-c", f"import requests; requests.get({url!r} + '/slow')"]
        with subprocess.Popen(curl, stderr=subprocess.DEVNULL) as client:
            time.sleep(2.0)
            os.kill(server.pid, signal.SIGINT)
            _, printed = server.communicate(timeout=15)
            assert client.wait(15) != 0  # its connection was cut
        assert server.returncode == 130
        assert printed == "led-sglang: interrupted\n"
        assert not psutil.wait_procs(workers, timeout=5)[1]
    finally:
        server.kill()


def _wait_until_it_answers(url: str) -> None:
    for _ in range(300):
        try:
            requests.get(url, timeout=5)
        except requests.ConnectionError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError("the server did not start")
