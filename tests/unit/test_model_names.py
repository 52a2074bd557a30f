"""Samplers by the model's name: what a name says, and what a launch refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from led_sglang.common.samplers import SamplerSpec
from led_sglang.launch_options import LaunchOptions
from led_sglang.methods.model_names import (
    ServedNames,
    UnknownModel,
    check_aliases,
    choose,
    chosen,
)
from led_sglang.methods.values import ParameterError
from led_sglang.patches.model_names import refuse_adapter, refuse_clashing_names
from led_sglang.settings import LaunchRefused, ServerSettings

WIDE = SamplerSpec("led-wide", "led", {"candidates": 20})


def settings() -> ServerSettings:
    return ServerSettings(
        sampler="led",
        enabled=("led", "regular"),
        depth=8,
        candidates=8,
        layers="paper",
        think_only=True,
        architecture="Qwen3ForCausalLM",
        num_layers=12,
        latent_layers=(11, 10, 9, 8, 7, 6, 5, 4),
        dola_layers=(),
        tied_embeddings=True,
        preset="default",
        think_start="<think>",
        think_end="</think>",
        think_start_ids=(1,),
        think_end_ids=(2,),
        boundary_ids=(),
        aliases=(WIDE,),
    )


@pytest.mark.parametrize("served", ["m", "org/m", "m:v1", "s3://bucket/m", "a:led:b", "m:led"])
def test_names_are_read_behind_the_models_own(served: str) -> None:
    """Whatever the model's own name looks like."""
    names = ServedNames(served, {"tuned"}, settings())
    led, regular = SamplerSpec("led", "led"), SamplerSpec("regular", "regular")
    for end, alias in (
        *(("", None), (":tuned", None), (":led", led), (":regular", regular), (": led", led)),
        *((":led-wide", WIDE), (":wide", WIDE), (":tuned:regular", regular)),
    ):
        assert names.read(served + end) == alias
    for end in (":nosuch", ":nosuch:led", ":tuned:nosuch", ":led:led", ":LED", ":", ":led:"):
        with pytest.raises(UnknownModel, match="does not exist") as error:
            names.read(served + end)
        assert repr(served + end) in str(error.value)
    with pytest.raises(UnknownModel, match=f"--enable-samplers dola to offer {served}:dola"):
        names.read(f"{served}:dola")


def test_other_names_are_sglangs_business() -> None:
    names = ServedNames("m", {"DoLa"}, settings())
    for model in ("default", "other", "other:adapter", "other:DoLa", "m:DoLa", "s3://bucket/x", ""):
        assert names.read(model) is None
    # SGLang reads adapters behind any name; a sampler must not be dropped there.
    assert names.read("other:regular") == SamplerSpec("regular", "regular")
    for model in ("other:Regular", "other: LED", ":regular", "regular", "soft_thinking"):
        with pytest.raises(UnknownModel, match="answers to m, m:led, m:regular"):
            names.read(model)
    with pytest.raises(UnknownModel, match="--enable-samplers dola"):
        names.read("other:dola")


def test_custom_params_add_to_a_name_and_may_not_contradict_it() -> None:
    assert chosen(WIDE, None) == {"sampler": "led", "led": {"candidates": 20}}
    assert chosen(WIDE, {"led": {"depth": 2}, "x": 1}) == {
        "sampler": "led",
        "led": {"candidates": 20, "depth": 2},
        "x": 1,
    }
    same = {"sampler": "led", "led": {"candidates": 20}}
    assert chosen(WIDE, same) == same
    for custom in ({"sampler": "regular"}, {"sampler": None}, {"led": {"candidates": 8}}):
        with pytest.raises(ParameterError, match="leave one of them out"):
            chosen(WIDE, custom)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, {"sampling_params": {"custom_params": {"sampler": "regular"}}}),
        (
            {"sampling_params": {"n": 2}},
            {"sampling_params": {"n": 2, "custom_params": {"sampler": "regular"}}},
        ),
        (
            {"sampling_params": [{}, {"n": 2}]},
            {
                "sampling_params": [
                    {"custom_params": {"sampler": "regular"}},
                    {"n": 2, "custom_params": {"sampler": "regular"}},
                ]
            },
        ),
    ],
)
def test_every_request_of_a_body_is_chosen_for(body: Any, expected: Any) -> None:
    choose(body, (("sampling_params",),), SamplerSpec("regular", "regular"))
    assert body == expected


def test_where_a_body_holds_custom_params_the_choice_goes() -> None:
    body = {"options": {"custom_params": {"led": {"depth": 2}}}}
    choose(body, ((), ("options",)), SamplerSpec("led", "led"))
    assert body == {"options": {"custom_params": {"led": {"depth": 2}, "sampler": "led"}}}


def test_the_shipped_ablations_have_names() -> None:
    aliases = LaunchOptions(led_aliases="ablations").resolve_aliases()
    assert {alias.label: alias.params for alias in aliases}["led-always-explore"] == {
        "gate": "always"
    }
    check_aliases(replace(settings(), aliases=aliases))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("samplers: []", "has no list `samplers`"),
        ("samplers: led", "has no list `samplers`"),
        ("- led", "has no list `samplers`"),
        ("samplers: [", "is not YAML"),
        ("samplers: [{name: beam}]", "'beam' is not one of led"),
        ("samplers: [dola]", "--enable-samplers dola"),
        ("samplers: [{name: led, label: a, prams: {}}]", "prams"),
        ("samplers: [{name: led, label: 'a:b'}]", "letters"),
        ("samplers: [{name: led, label: led, params: {depth: 2}}]", "'led' is taken"),
        ("samplers: [{name: led, label: led-dola}]", "'dola' is taken"),
        ("samplers: [{name: led, label: a}, {name: led, label: led-a}]", "'a' is taken"),
        ("samplers: [{name: led, label: a, sampling: {min_p: 0.1}}]", "`sampling`"),
    ],
)
def test_files_of_aliases_are_checked(tmp_path: Path, text: str, sentence: str) -> None:
    file = tmp_path / "aliases.yaml"
    file.write_text(text)
    with pytest.raises(LaunchRefused, match="--led-aliases") as refusal:
        LaunchOptions(led_aliases=str(file)).resolve_aliases()
    assert sentence in str(refusal.value)


def test_aliases_that_no_request_could_use_are_refused() -> None:
    bad = replace(settings(), aliases=(SamplerSpec("led-deep", "led", {"depth": 99}),))
    with pytest.raises(LaunchRefused, match=r"led-deep: custom_params\.led\.depth"):
        check_aliases(bad)
    with pytest.raises(LaunchRefused, match="nowhere is no file and no shipped grid"):
        LaunchOptions(led_aliases="nowhere").check(None)


@pytest.mark.parametrize("name", ["led", "dola", "led-wide", "wide", "a:regular"])
def test_adapters_that_would_be_taken_for_samplers_are_refused(name: str) -> None:
    for paths in ([f"{name}=/a"], [{"lora_name": name, "lora_path": "/a"}], {name: "/a"}):
        cfg = SimpleNamespace(lora_paths=paths, served_model_name="m", model_path="/m")
        with pytest.raises(LaunchRefused, match="another name"):
            refuse_clashing_names(cfg, settings())
    with pytest.raises(ParameterError, match="another name"):
        refuse_adapter(name, settings())
    refuse_adapter("tuned", settings())


def test_names_with_a_colon_are_refused() -> None:
    for served in ("m:led", "m:v1", "s3://bucket/m:led"):
        cfg = SimpleNamespace(lora_paths=None, served_model_name=served, model_path="/m")
        with pytest.raises(LaunchRefused, match="holds a colon"):
            refuse_clashing_names(cfg, settings())
    for served in ("m", "s3://bucket/m"):
        cfg = SimpleNamespace(lora_paths=["a=/b"], served_model_name=served, model_path="/m")
        refuse_clashing_names(cfg, settings())
