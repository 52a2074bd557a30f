"""`led-sglang doctor --url`: what is looked at on a server, and the sentence for each fault."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from led_sglang.cli import main
from led_sglang.common.server_process import free_port

LED = {
    "settings": {"sampler": "led", "enabled": ["led", "regular"]},
    "kernels": "triton",
    "totals": {},
}
INFO = {
    "version": "0.5.23",
    "served_model_name": "m",
    "internal_states": [{"led": LED, "decode_cuda_graph_bs": [1, 2, 4]}],
}
ANSWER = {
    "output_ids": list(range(4)),
    "meta_info": {
        "led": {"explored_tokens": 4},
        "sampler": {"name": "led", "settings": {"gate": "always", "think_only": False}},
    },
}


@contextmanager
def served(info: dict[str, Any], answers: list[dict[str, Any]]) -> Iterator[str]:
    """A server with these `/server_info` and answers of `/generate`, in turn."""
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply(info)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.reply(left.pop(0))

        def reply(self, content: Any) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def changed(thing: dict[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    result = copy.deepcopy(thing)
    change(result)
    return result


def led(**parts: Any) -> Callable[[Any], Any]:
    return lambda info: info["internal_states"][0]["led"].update(parts)


def test_a_ready_server_passes(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--kernels", "triton", "--sampler", "led", "--graphs", "--timeout", "5"]
    with served(INFO, [ANSWER] * 2) as url:
        assert main(["doctor", "--url", f"{url}/v1", *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["ok", name] for name in ("server", "kernels", "graphs", "sampler", "probe")
    ]


@pytest.mark.parametrize(
    ("change", "flags", "sentence"),
    [
        (lambda info: info.update(internal_states=[{}]), (), "decodes without LED"),
        (lambda info: info["internal_states"].append({}), (), "decodes without LED"),
        (led(kernels="torch: no compiler"), (), "fell back to plain torch (no compiler)"),
        (
            led(kernels="torch: no compiler"),
            ("--kernels", "triton"),
            "run in torch and not in triton, which was expected (no compiler)",
        ),
        # one replica of two
        (
            lambda info: info["internal_states"].append({"led": LED | {"kernels": "torch: x"}}),
            (),
            "fell back to plain torch (x)",
        ),
        (
            lambda info: info["internal_states"][0].update(decode_cuda_graph_bs=[]),
            ("--graphs",),
            "not replayed as graphs",
        ),
        (
            led(settings=LED["settings"] | {"sampler": "regular"}),  # type: ignore[operator]
            ("--sampler", "led"),
            "get regular and not led",
        ),
        (
            led(settings=LED["settings"] | {"enabled": ["regular"]}),  # type: ignore[operator]
            (),
            "--enable-samplers led",
        ),
    ],
)
def test_a_server_that_is_not_as_it_should_be(
    change: Any, flags: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with served(changed(INFO, change), [ANSWER] * 2) as url:
        assert main(["doctor", "--url", url, *flags]) == 1
    out = capsys.readouterr().out
    assert sentence in out
    assert out.count("FAIL") == 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda answer: answer["meta_info"]["sampler"].update(name="regular"), "gateway"),
        (lambda answer: answer["meta_info"]["sampler"]["settings"].update(gate="rate"), "gateway"),
        (lambda answer: answer["meta_info"]["led"].update(explored_tokens=0), "explored at 0"),
    ],
)
def test_an_answer_that_is_not_as_it_should_be(
    change: Any, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with served(INFO, [changed(ANSWER, change)] * 2) as url:
        assert main(["doctor", "--url", url]) == 1
    assert sentence in capsys.readouterr().out


def test_two_answers_in_a_row_are_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    """A first prompt that is not cached yet may round otherwise; a seed that is ignored differs."""
    others = [ANSWER | {"output_ids": [i]} for i in range(4)]
    with served(INFO, [others[0], ANSWER, ANSWER]) as url:
        assert main(["doctor", "--url", url]) == 0
    with served(INFO, others) as url:
        assert main(["doctor", "--url", url]) == 1
    assert "gave other tokens each of 4 times" in capsys.readouterr().out


def test_torch_may_be_what_is_expected(capsys: pytest.CaptureFixture[str]) -> None:
    with served(changed(INFO, led(kernels="torch: int8 head")), [ANSWER] * 2) as url:
        assert main(["doctor", "--url", url, "--kernels", "torch"]) == 0
    assert "int8 head" in capsys.readouterr().out


def test_nobody_answers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--url", f"localhost:{free_port()}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no answer from http://localhost:" in line
    with served({"hello": "world"}, []) as url:
        assert main(["doctor", "--url", url]) == 2
    assert "is no SGLang server" in capsys.readouterr().err


def test_flags_go_with_what_they_are_for() -> None:
    for flags in (["--kernels", "cpu"], ["--graphs"], ["--url", "a", "--depth", "2"]):
        with pytest.raises(SystemExit) as end:
            main(["doctor", *flags])
        assert end.value.code == 2
