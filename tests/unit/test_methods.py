"""Requests of every method: what is parsed, what is refused, what rows of a batch hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from server_settings import SETTINGS

from led_sglang.launch_layers import resolve_dola_layers
from led_sglang.launch_options import LaunchOptions
from led_sglang.methods.dola.params import DolaParams, bucket
from led_sglang.methods.led.record import LedRecord
from led_sglang.methods.registry import METHODS
from led_sglang.methods.request import parse_request
from led_sglang.methods.rows import REGULAR_ROW, Layout, Row, RowTable
from led_sglang.methods.soft_thinking import SoftThinking
from led_sglang.methods.soft_thinking.params import SoftThinkingParams
from led_sglang.methods.soft_thinking.record import SoftHistory, SoftRecord
from led_sglang.methods.values import ParameterError
from led_sglang.settings import LaunchRefused


def parse(custom: Any, **changes: Any) -> Any:
    return parse_request(custom, replace(SETTINGS, **changes), foreign_keys=False)


# Layers, tied, low, high: HF's rule, on both sides of 40 layers.
@pytest.mark.parametrize(
    ("layers", "tied", "low", "high"),
    [
        (12, True, (2, 4), (6, 8, 10)),
        (12, False, (0, 2, 4), (6, 8, 10)),
        (36, False, tuple(range(0, 18, 2)), tuple(range(18, 36, 2))),
        (40, True, tuple(range(2, 20, 2)), tuple(range(20, 40, 2))),
        (64, False, tuple(range(0, 20, 2)), tuple(range(44, 64, 2))),
        (2, True, (), (1,)),
    ],
)
def test_dola_buckets(layers: int, tied: bool, low: tuple[int, ...], high: tuple[int, ...]) -> None:
    assert bucket("low", layers, tied) == low
    assert bucket("high", layers, tied) == high


@pytest.mark.parametrize(
    ("given", "layers"),
    [
        (None, (2, 4, 6, 8, 10)),
        ("low", (2, 4)),
        ("high, 0,1", (0, 1, 6, 8, 10)),
        ("all", tuple(range(12))),
    ],
)
def test_dola_layers_of_a_launch(given: str | None, layers: tuple[int, ...]) -> None:
    assert resolve_dola_layers(given, 12, tied=True) == layers


@pytest.mark.parametrize("given", ["12", "-1", "middle", "", "1,,2"])
def test_dola_layers_that_no_launch_takes(given: str) -> None:
    with pytest.raises(LaunchRefused, match="--dola-layers"):
        resolve_dola_layers(given, 12, tied=True)


def test_captured_layers_are_the_union_with_leds_at_the_end() -> None:
    assert SETTINGS.captured == (2, 4, 6, 8, 9, 10, 11)
    assert SETTINGS.captured[-len(SETTINGS.latent_layers) :] == SETTINGS.latent_layers[::-1]
    assert replace(SETTINGS, dola_layers=()).captured == SETTINGS.latent_layers[::-1]


def test_dola_request() -> None:
    assert parse({"sampler": "dola"}).params == DolaParams(layers=(2, 4))
    given = {"layers": [10, 2, 2], "relative_top": 1, "divergence": "jensen-shannon"}
    params = parse({"sampler": "dola", "dola": given}).params
    assert params == DolaParams((2, 10), 1.0, "jensen-shannon")


def test_soft_requests() -> None:
    assert parse({"sampler": "soft-thinking"}).params == SoftThinkingParams("soft-thinking")
    name = "soft-thinking-gumbel"
    params = parse({"sampler": name, name: {"gumbel_temperature": 2, "max_topk": 3}}).params
    assert (params.noise_value, params.max_topk) == (2.0, 3)
    SoftThinking().check(params, 3)
    with pytest.raises(ParameterError, match="max_topk"):
        SoftThinking().check(params, 2)
    # Only a max_topk that was asked for can be too large.
    SoftThinking().check(parse({"sampler": name}).params, 1)


@pytest.mark.parametrize(
    ("custom", "message"),
    [
        ({"sampler": "dola", "dola": {"layers": [3]}}, r"dola\.layers"),
        ({"sampler": "dola", "dola": {"layers": [[2]]}}, r"dola\.layers"),
        ({"sampler": "dola", "led": {}}, r"custom_params\.led"),
        ({"sampler": "soft-thinking", "soft-thinking": {"alpha": 1}}, r"soft-thinking\.alpha"),
        ({"sampler": "soft-thinking", "soft-thinking": 3}, "must be an object"),
        ({"sampler": "softer"}, "must be one of"),
    ],
)
def test_refused_requests(custom: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        parse(custom)


@pytest.mark.parametrize(
    ("layers", "captured", "allowed"),
    [(4, (0, 1, 2, 3), '"high" or a list'), (4, (0, 1), "a list"), (12, (2, 4), '"low" or a list')],
)
def test_a_refusal_of_dola_layers_names_what_there_is(
    layers: int, captured: tuple[int, ...], allowed: str
) -> None:
    """A model of four layers with tied embeddings has no low ones, which are the default."""
    with pytest.raises(ParameterError) as refusal:
        parse(
            {"sampler": "dola", "dola": {"layers": "high" if layers == 12 else "low"}},
            num_layers=layers,
            dola_layers=captured,
        )
    listed = ", ".join(map(str, captured))
    assert f"dola.layers must be {allowed} of layers among {listed} (" in str(refusal.value)


def test_a_method_that_is_not_enabled_says_how_to_enable_it() -> None:
    with pytest.raises(ParameterError, match="--enable-samplers dola"):
        parse({"sampler": "dola"}, enabled=("led", "regular"))


def test_enabled_methods_of_a_launch() -> None:
    options = LaunchOptions(sampler="dola", enable_samplers="soft-thinking, led")
    assert options.resolve_samplers() == ("dola", ("dola", "soft-thinking", "led", "regular"))


def rows() -> list[Row]:
    customs = [
        {"sampler": "led", "led": {"depth": 3}},
        {"sampler": "soft-thinking", "soft-thinking": {"max_topk": 7}},
        {"sampler": "dola"},
    ]
    return [
        Row(c["sampler"], parse(c).params, seed=i or None, top_k=20 + i, top_p=0.5, min_p=0.1)
        for i, c in enumerate(customs)
    ]


def test_rows_keep_their_values_through_filters_and_merges() -> None:
    table = RowTable.build(rows(), Layout.of(METHODS), "cpu", pin=False)
    table = table.regular(2).join(table)
    order = [4, 1, 3, 2]
    table = table.keep(order, torch.tensor(order))
    assert [row.sampler for row in table.rows] == ["dola", "regular", "soft-thinking", "led"]
    assert table.samplers == {"dola", "soft-thinking", "led"}
    assert table.columns("led")["depth"].tolist() == [1, 1, 1, 3]
    assert table.columns("soft-thinking-gumbel")["max_topk"].tolist() == [1, 1, 7, 1]
    assert table.filters["top_k"].tolist() == [22, 2**31 - 1, 21, 20]
    assert table.has_seed.tolist() == [True, False, True, False]
    assert table.seeds.tolist() == [2, 0, 1, 0]
    assert table.mask("led", "dola").tolist() == [True, False, False, True]
    assert table.places_of("soft-thinking").tolist() == [2]


def test_regular_rows_hold_what_a_built_regular_row_holds() -> None:
    table = RowTable.build([*rows(), REGULAR_ROW], Layout.of(METHODS), "cpu", pin=False)
    assert torch.equal(table.regular(1).packed[0], table.packed[3])


def record(streak: int, active: bool, forced: bool = False) -> dict[str, Any]:
    return SoftRecord(
        index=torch.tensor([0]),
        phases=torch.tensor([1]),
        entropy=torch.tensor([0.5]),
        forced=torch.tensor([forced]),
        active=torch.tensor([active]),
        streak=torch.tensor([streak]),
        ids=torch.tensor([[5, 7, 9]]),
        weights=torch.tensor([[0.75, 0.25, 0.0]]),
    ).arrays()


def test_history_gives_back_the_mixtures_that_were_fed() -> None:
    history = SoftHistory()
    history.add(record(1, True), 0, 0)
    history.add(record(2, True), 0, 1)
    entry = history.add(record(-1, False, forced=True), 0, 2)
    history.add(record(0, False, forced=True), 0, 3)
    assert entry["cold_stop"]
    assert entry["ids"] == [5, 7]
    places, ids, weights = history.mixtures(1, 4)
    assert places == [1]
    assert ids.tolist() == [[5, 7]]
    assert weights.tolist() == [[0.75, 0.25]]
    # A delimiter of two tokens is one stop.
    assert history.report() == {"think_tokens": 4, "cold_stops": 1, "mean_entropy": 0.5}
    with pytest.raises(IndexError):
        history.mixtures(0, 5)


def test_a_trace_keeps_a_candidate_that_a_latent_layer_alone_sees() -> None:
    """At a low temperature the final posterior of all but one is 0 in float32."""
    params = parse({"led": {"depth": 2, "candidates": 3, "trace": True}}).params
    trace = {
        "candidate_ids": torch.tensor([[7, 3, 9, 4]]),
        "layer_probs": torch.tensor([[[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 1.0, 1.0]]]),
        "behaviour_probs": torch.tensor([[0.75, 0.25, 0, 0]]),
        **{name: torch.ones(1) for name in ("entropy", "explore_probability", "gate_draw")},
    }
    entry = LedRecord(torch.zeros(1, 5), trace, None)._detail(0, params)
    assert entry["candidate_ids"] == [7, 3]
    assert entry["candidate_probs"] == [1.0, 0.0]
    assert entry["layer_probs"] == [[1.0, 0.0], [0.5, 0.5]]
    assert entry["behaviour_probs"] == [0.75, 0.25]
