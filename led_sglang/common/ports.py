"""Who listens on a port of this machine."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import psutil


def listens(pid: int, port: int) -> bool:
    """Whether a process, or one that it started, listens on a TCP port."""
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        family = (process, *process.children(recursive=True))
        return any(_listens(member, port) for member in family)
    return False


def port_holder(port: int) -> str:
    """` by process 4711 (python)`, or nothing where the system does not tell."""
    with suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if _is_listener(connection, port) and connection.pid:
                return f" by process {connection.pid} ({psutil.Process(connection.pid).name()})"
    return ""


def _listens(process: psutil.Process, port: int) -> bool:
    with suppress(psutil.Error):
        return any(_is_listener(c, port) for c in process.net_connections("tcp"))
    return False


def _is_listener(connection: Any, port: int) -> bool:
    is_listening = connection.status == psutil.CONN_LISTEN
    return is_listening and bool(connection.laddr) and connection.laddr.port == port
