"""What the servers of a prefill/decode pair tell each other, without servers."""

from __future__ import annotations

import os
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sglang.srt.disaggregation.base import KVPoll

from led_sglang.methods.led.params import BEHAVIOUR_KEY, SUMMARY_KEY, TRACE_KEY, LedParams
from led_sglang.methods.led.record import LedStatistics
from led_sglang.methods.reporting import RequestNotes
from led_sglang.patches import binding, pair_settings
from led_sglang.patches.cpu import pairs
from led_sglang.patches.first_token import FirstTokens, first_token, take_over

DEPTH = 36
ADDRESS = "10.0.0.1:8998"


def traced(candidates: int) -> RequestNotes:
    """A request of which one token has been sampled, with as many numbers as there can be."""
    statistics = LedStatistics()
    statistics.add(True, 3, -1.2345678901234567e-10, 0)
    notes = RequestNotes("led", LedParams(), statistics)
    notes.summarise(SUMMARY_KEY)
    numbers = torch.randn(DEPTH, candidates).tolist()
    entry: dict[str, Any] = {"token_id": 151_935, "phase": "think", "explored": True, "depth": 3}
    entry |= {"p1": 0.1, "explore_probability": 0.9, "gate_draw": 0.3, "behaviour_logprob": -3.1}
    entry |= {"candidate_ids": [2**31 - 1] * candidates, "layer_probs": numbers}
    entry |= {"candidate_probs": numbers[0], "behaviour_probs": numbers[1]}
    notes.append(TRACE_KEY, entry | {"entropy": [row[0] for row in numbers]})
    notes.append(BEHAVIOUR_KEY, -3.1)
    return notes


def test_the_largest_first_token_goes_over_unchanged_and_once() -> None:
    rows = FirstTokens(3, DEPTH, torch.device("cpu"))
    sent, room = traced(64), 2**62 + 7
    rows.write(1, room, first_token(sent))
    assert not rows.buffer[0].any()
    assert not rows.buffer[2].any()
    arrived = RequestNotes("led", LedParams(), LedStatistics())
    assert rows.read(1, room + 1) is None, "what an earlier request left in the row"
    assert rows.read(0, 0) is None, "a row that nothing was written to"
    take_over(arrived, rows.read(1, room))
    assert arrived.statistics == sent.statistics
    for key in (TRACE_KEY, BEHAVIOUR_KEY):
        assert arrived.info[key] == sent.info[key]
    arrived.statistics.add(True, 3, 0.5, 1)
    assert arrived.info[SUMMARY_KEY][:][0]["depth_histogram"] == {"3": 2}
    assert arrived.info[SUMMARY_KEY][:][0]["first_explored"] == 0


def test_requests_without_statistics_send_nothing() -> None:
    assert first_token(None) is None
    assert first_token(RequestNotes("dola", None)) is None


def settings(**changed: Any) -> dict[str, Any]:
    return {"depth": 8, "candidates": 8, "version": "1", "num_layers": 36} | changed


@pytest.mark.parametrize(
    ("prefill", "named"),
    [
        (settings(), None),
        (settings(depth=4), "--led-depth (4 on the prefill server, 8 on the decode server)"),
        (settings(version="0"), "the version of led-sglang"),
        (settings(num_layers=12), "the files of the model (num_layers)"),
        (None, "decodes without LED"),
    ],
)
def test_requests_of_another_prefill_server_end_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, prefill: dict[str, Any] | None, named: str | None
) -> None:
    monkeypatch.setattr(pair_settings, "settings_or_none", object)
    monkeypatch.setattr(pair_settings, "described", lambda _: settings())
    reasons: dict[int, str] = {}
    states: dict[int, int] = {}
    field = "this_prefill_server_needs_led_on_the_decode_server_too"
    manager = SimpleNamespace(
        prefill_info_table={ADDRESS: SimpleNamespace(**{field: prefill})},
        record_failure=reasons.__setitem__,
        update_status=states.__setitem__,
    )
    receiver = SimpleNamespace(
        kv_mgr=manager, bootstrap_addr=ADDRESS, bootstrap_room=5, conclude_state=None
    )
    went_on: list[int] = []
    pair_settings._refuse_another_prefill(lambda _, rank: went_on.append(rank), receiver, 2)
    if named is None:
        assert (went_on, reasons, receiver.conclude_state) == ([2], {}, None)
        return
    assert went_on == []
    assert named in reasons[5]
    assert ADDRESS in reasons[5]
    assert reasons[5].count("\n") == 0
    assert states[5] == receiver.conclude_state == KVPoll.Failed


def test_a_decode_server_without_led_names_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    """SGLang's own record of a prefill server is made of the answer's fields."""
    monkeypatch.setattr(pair_settings, "settings_or_none", object)
    monkeypatch.setattr(pair_settings, "pair_role", lambda: "prefill")
    monkeypatch.setattr(pair_settings, "described", lambda _: settings())
    known = dict.fromkeys(("attn_tp_size", "attn_cp_size", "dp_size", "pp_size"), 1)
    known |= {"page_size": 1, "kv_cache_dtype": "auto", "follow_bootstrap_room": True}
    told = asdict(pair_settings.PrefillWithLed(**known))
    plain = pair_settings.PrefillWithLed.__mro__[1]
    with pytest.raises(TypeError, match="this_prefill_server_needs_led_on_the_decode_server_too"):
        plain(**told)
    assert pair_settings.PrefillWithLed(**told) == pair_settings.PrefillWithLed(**known)
    # And a decode server with LED takes a plain one for what it is.
    monkeypatch.setattr(pair_settings, "pair_role", lambda: "decode")
    heard = pair_settings.PrefillWithLed(**known)
    assert heard.this_prefill_server_needs_led_on_the_decode_server_too is None


def test_the_servers_of_a_pair_draw_different_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one --random-seed: both begin with step 0."""
    group = SimpleNamespace(all_gather_object=lambda seed: [seed])
    parallel = SimpleNamespace(attn_dp_rank=0, dp_rank=None)
    monkeypatch.setattr(binding, "get_device", lambda: SimpleNamespace(random_seed=1234))
    monkeypatch.setattr(binding, "get_parallel", lambda: parallel)
    seeds = set()
    for parallel.attn_dp_rank in (0, 1, 2):
        for role in ("null", "prefill", "decode"):
            monkeypatch.setattr(binding, "pair_role", lambda role=role: role)
            stream = binding._noise_stream(torch.device("cpu"), group)
            seeds.add(int(stream.seed))
    assert len(seeds) == 9


def test_the_cpu_platform_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from sglang.srt.disaggregation.mooncake.conn import MooncakeKVSender

    monkeypatch.setattr(torch.cuda, "Event", None)
    monkeypatch.setattr(MooncakeKVSender, "supports_host_tensor_indices", True)
    pairs.install()
    event: Any = torch.cuda.Event(enable_timing=True)
    event.record(object())
    event.wait()
    event.synchronize()
    assert event.query()
    assert not MooncakeKVSender.supports_host_tensor_indices


def test_the_cpu_platform_lets_transfers_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    from led_sglang.patches.cpu import platform

    first, *others = pairs.TRANSFER_LIMITS
    for name in pairs.TRANSFER_LIMITS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(first, "what a user has set")
    fields = ("max_total_tokens", "max_mamba_cache_size", "disaggregation_decode_retraction_backup")
    for role in ("null", "decode"):
        args = SimpleNamespace(disaggregation_mode=role, **dict.fromkeys(fields))
        platform.TorchCpu().apply_server_args_defaults(args)
        found = [os.environ.get(name) for name in others]
        assert (None in found) == (role == "null")
        assert args.disaggregation_decode_retraction_backup == "cpu_tensor"
    assert os.environ[first] == "what a user has set"
    for name in others:
        del os.environ[name]
