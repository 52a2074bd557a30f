"""How the commands meet the terminal: how they end, Ctrl-C, lines that are written again."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from led_sglang.common.terminal import finish
from led_sglang.common.waiting import Waiting


def test_how_a_command_ends(capsys: pytest.CaptureFixture[str]) -> None:
    def raising(error: BaseException) -> Callable[[], int]:
        def command() -> int:
            raise error

        return command

    assert finish(lambda: 0) == 0
    assert finish(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "led-sglang: interrupted\n"
    assert finish(raising(OSError(28, "No space left on device", "/x/y"))) == 2
    assert capsys.readouterr().err == "led-sglang: No space left on device: /x/y\n"
    with pytest.raises(ZeroDivisionError):  # a fault of ours is no error of the user's
        finish(raising(ZeroDivisionError()))


def test_a_reader_that_is_gone_is_no_traceback() -> None:
    code = "from led_sglang.common.terminal import finish\nimport sys\n"
    code += "sys.exit(finish(lambda: [print('x' * 99) for _ in range(9999)] and 0))"
    command = f'"{sys.executable}" -c "{code}" | head -1; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, "")


def test_ctrl_c_ends_an_import_that_would_not_let_it_through() -> None:
    """As C++ that calls Python does not: an exception there would abort the process."""
    code = (
        "import os, signal\n"
        "from led_sglang.common.terminal import ended_at_once\n"
        "before = signal.getsignal(signal.SIGINT)\n"
        "with ended_at_once():\n"
        "    pass\n"
        "assert signal.getsignal(signal.SIGINT) is before\n"
        "with ended_at_once():\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        print('went on')\n"
        "    except BaseException:\n"
        "        os.abort()\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 130
    assert (ran.stdout, ran.stderr) == ("", "led-sglang: interrupted\n")


def test_ctrl_c_does_not_wait_for_calls() -> None:
    """Sixteen calls of an hour each."""
    code = (
        "import sys, time\n"
        "from led_sglang.common.terminal import finish\n"
        "from led_sglang.common.threads import run_all\n"
        "def command():\n"
        "    print('begun', flush=True)\n"
        "    run_all(time.sleep, [3600] * 16, 4, lambda ended: None)\n"
        "sys.exit(finish(command))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        time.sleep(0.3)
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=5)
    finally:
        process.kill()
    assert (process.returncode, errors) == (130, "led-sglang: interrupted\n")


@pytest.mark.parametrize("columns", [30, 200])
def test_a_line_that_is_written_again_fits_the_terminal(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
    monkeypatch.delenv("TERM", raising=False)
    with os.fdopen(terminal, "w") as stderr:
        monkeypatch.setattr("sys.stderr", stderr)
        with Waiting("starting a server, which logs to /some/where/server.log") as waiting:
            waiting._last -= 9
            waiting.show("12 tokens")
    shown = ""
    with os.fdopen(ours, "rb", buffering=0) as screen, suppress(OSError):  # at its end: EIO
        while part := screen.read(9999):
            shown += part.decode()
    lines = [line for line in re.split(r"[\r\n]+|\x1b\[K", shown) if line]
    assert len(lines) == 2
    assert max(map(len, lines)) == min(columns - 1, 74)
    assert lines[1].endswith("... 0 s, 12 tokens")
