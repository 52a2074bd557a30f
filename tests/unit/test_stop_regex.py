"""A `stop_regex` that backtracks is cut off where one scheduler serves, and nowhere else."""

from __future__ import annotations

import re
import signal
from types import SimpleNamespace
from typing import Any

import pytest

from led_sglang.patches import stop_regex


def search(self: Any, new_accepted_len: int) -> bool:
    self.timer = signal.getitimer(signal.ITIMER_VIRTUAL)[0]
    return re.search(self.sampling_params.stop_regex_strs[0], "a" * 40) is not None


def request_with(expression: str, monkeypatch: pytest.MonkeyPatch, ranks: int) -> Any:
    monkeypatch.setattr(
        "sglang.srt.runtime_context.get_parallel", lambda: SimpleNamespace(tp_size=ranks)
    )
    return SimpleNamespace(sampling_params=SimpleNamespace(stop_regex_strs=[expression]))


def test_a_search_without_end_aborts_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop_regex, "_LIMIT_S", 0.1)
    request = request_with("(a*)*b", monkeypatch, ranks=1)
    handler = signal.getsignal(signal.SIGVTALRM)
    assert stop_regex._limit_the_search(search, request) is False
    reason = request.finished_reason.to_json()
    assert (reason["type"], reason["status_code"]) == ("abort", 400)
    assert "took more than" in reason["message"]
    assert signal.getitimer(signal.ITIMER_VIRTUAL)[0] == 0
    assert signal.getsignal(signal.SIGVTALRM) == handler


def test_a_quick_search_keeps_its_result(monkeypatch: pytest.MonkeyPatch) -> None:
    for expression, found in (("a+", True), ("b", False)):
        request = request_with(expression, monkeypatch, ranks=1)
        assert stop_regex._limit_the_search(search, request) is found
        assert request.timer > 0
    assert signal.getitimer(signal.ITIMER_VIRTUAL)[0] == 0


def test_ranks_are_not_limited_as_their_clocks_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    request = request_with("a+", monkeypatch, ranks=2)
    assert stop_regex._limit_the_search(search, request) is True
    assert request.timer == 0
