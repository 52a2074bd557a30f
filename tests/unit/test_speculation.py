"""The verification of drafts with LED's tokens: their distribution, and whose streams are whose."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from drafts import Draft, drafted
from scipy.stats import chisquare
from sglang.srt.model_executor.forward_batch_info import CaptureHiddenMode, ForwardMode
from sglang.srt.model_executor.model_runner_components.spec_aux_hidden_state import (
    SpecAuxHiddenStateConfig,
)
from sglang.srt.speculative import eagle_utils
from sglang.srt.speculative.spec_info import SpeculativeAlgorithm
from torch import Tensor

from led_sglang.kernels import EagerStep, LmHeadShard, NoiseStream, led_reference
from led_sglang.methods.base import LoadedModel
from led_sglang.methods.led.params import LedParams
from led_sglang.methods.led.sampler import LedSampler as LedMethod
from led_sglang.methods.registry import METHODS
from led_sglang.methods.rows import REGULAR_ROW, Layout, Row, RowTable
from led_sglang.patches import statistics
from led_sglang.patches.captured_streams import STREAMS_ATTRIBUTE, share_columns
from led_sglang.patches.cpu.speculation import follow_tokens
from led_sglang.patches.methods_at_work import MethodsAtWork, SameTemperatures
from led_sglang.patches.speculation import launch as spec_launch
from led_sglang.patches.speculation import streams, verify
from led_sglang.phase import PhaseTracker, ThinkAutomaton
from led_sglang.settings import LaunchRefused

V, H, DEPTH, TEMPERATURE = 40, 8, 4, 0.7
START, END = 38, 39
REQUESTS, ROUNDS = 2_500, 12
PARAMS = LedParams(depth=DEPTH, candidates=6)


@pytest.fixture
def model() -> tuple[Tensor, Tensor, Tensor]:
    """LM head [V, H], and of three nodes the final logits [3, V] and the streams [3, 3, H]."""
    torch.manual_seed(7)
    head, logits = torch.randn(V, H), torch.randn(3, V) * 2
    logits[0, 5] = logits[0].max() + 2.0  # so likely that most drafts of it are accepted
    return head, logits, torch.randn(3, DEPTH - 1, H) * 2


@pytest.fixture
def at_work(monkeypatch: pytest.MonkeyPatch, model: tuple[Tensor, Tensor, Tensor]) -> Any:
    """What the hook takes for the sampler of a loaded model, on one rank."""
    one = SimpleNamespace(attn_tp_rank=0, pp_size=1, tp_group=SimpleNamespace(world_size=1))
    for module in (statistics, verify):
        monkeypatch.setattr(module, "get_parallel", lambda: one)
    monkeypatch.setattr(statistics, "pair_role", lambda: "null")
    monkeypatch.setattr(verify, "is_dp_attention_enabled", lambda: False)
    monkeypatch.setattr(eagle_utils, "verify_tree_greedy_func", follow_tokens)
    shard = LmHeadShard(model[0], 0, V)
    loaded = LoadedModel(
        head=shard,
        step=EagerStep(shard),
        all_gather=None,
        shard_widths=(V,),
        noise=NoiseStream.start(11, "cpu"),
        place_of=torch.zeros(1, dtype=torch.int64),
        think_end=torch.tensor([END]),
    )
    tracker = PhaseTracker(ThinkAutomaton([START], [END]), REQUESTS, V, "cpu")
    settings: Any = SimpleNamespace(
        enabled=("led",), captured=(1, 2, 3), latent_layers=(3, 2, 1), self_check="off"
    )
    methods = MethodsAtWork(settings, None)
    methods.bound = SimpleNamespace(model=loaded, hidden_size=H, tracker=tracker)  # type: ignore[assignment]
    methods._samplers = [(frozenset({"led"}), LedMethod(loaded))]
    return SimpleNamespace(methods=methods, temperatures=SameTemperatures(), top_p=None)


def verified(
    sampler: Any, model: tuple[Tensor, Tensor, Tensor], draft: Draft, rows: list[Row], states: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, counts and accepted nodes of as many requests that are in the same place."""
    _, logits, latents = model
    count = len(rows)
    sampler.methods.bound.tracker._states.fill_(states)
    table = RowTable.build(rows, Layout.of(METHODS), "cpu", False)
    candidates, index, child, sibling = drafted([draft] * count)
    info = SimpleNamespace(
        led_rows=table,
        led_sampler=sampler,
        temperatures=torch.full((count, 1), TEMPERATURE),
        is_all_greedy=False,
    )
    batch = SimpleNamespace(
        sampling_info=info, forward_mode=ForwardMode.TARGET_VERIFY,
        req_pool_indices=torch.arange(count),
    )  # fmt: skip
    drafts = SimpleNamespace(
        draft_token_num=draft.width, draft_token=candidates.flatten(), retrieve_index=index,
        retrieve_next_token=child, retrieve_next_sibling=sibling, max_tree_depth=draft.width,
        positions=torch.arange(count * draft.width), tree_topk=1,
    )  # fmt: skip
    output = SimpleNamespace(
        next_token_logits=logits.repeat(count, 1), hidden_states=latents.flatten(1).repeat(count, 1)
    )
    engines = torch.full((count * draft.width,), 1, dtype=torch.int32), torch.ones(
        count, dtype=torch.int32
    ), torch.zeros(count, draft.width, dtype=torch.int32)  # fmt: skip
    return verify._verify(lambda *_, **__: engines, drafts, batch, output)


def expected(model: tuple[Tensor, Tensor, Tensor], node: int) -> dict[int, float]:
    head, logits, latents = model
    reference = led_reference(
        logits[node], latents[node].flip(0), head,
        temperature=TEMPERATURE, depth=DEPTH, candidates=6,
    )  # fmt: skip
    return dict(zip(reference.candidate_ids, reference.behaviour_probs.tolist(), strict=True))


def test_unseeded_tokens_behind_a_drafted_one_follow_q(
    at_work: Any, model: tuple[Tensor, Tensor, Tensor]
) -> None:
    """20,000 of them, of a chain whose first token the model nearly always takes."""
    first, second = Counter[int](), Counter[int]()
    for _ in range(ROUNDS):
        rows = [Row("led", PARAMS)] * REQUESTS
        tokens, counts, _ = verified(at_work, model, Draft((0, 5, 6), (-1, 0, 1)), rows, 1)
        first.update(tokens.view(-1, 3)[:, 0].tolist())
        second.update(tokens.view(-1, 3)[counts > 1, 1].tolist())
    assert second.total() >= 20_000
    for found, node in ((first, 0), (second, 1)):
        q = {token: p for token, p in expected(model, node).items() if p > 0}
        assert set(found) <= set(q)
        want = [found.total() * p for p in q.values()]
        assert chisquare([found[token] for token in q], want).pvalue > 1e-3
    # The test has power: the final layer alone, or the node before it, is something else.
    plain = (model[1][1] / TEMPERATURE).softmax(0)
    kept = plain[list(expected(model, 1))]
    want = (kept / kept.sum() * second.total()).double()
    want *= second.total() / want.sum()
    assert chisquare([second[token] for token in expected(model, 1)], want).pvalue < 1e-6


def test_a_delimiter_inside_a_draft_ends_the_thought_behind_it(
    at_work: Any, model: tuple[Tensor, Tensor, Tensor]
) -> None:
    """Behind a drafted `</think>` the request's own filters hold, and its slot has moved on."""
    model[1][0, END] = 50.0
    rows = [Row("led", PARAMS, top_k=3)] * REQUESTS
    tokens, counts, _ = verified(at_work, model, Draft((0, END, 6), (-1, 0, 1)), rows, 1)
    assert (counts > 1).all()
    found = Counter(tokens.view(-1, 3)[:, 1].tolist())
    probs = (model[1][1].double() / TEMPERATURE).softmax(0)
    top = probs.topk(3)
    want = (top.values / top.values.sum() * REQUESTS).tolist()
    assert chisquare([found[token] for token in top.indices.tolist()], want).pvalue > 1e-3
    tracker = at_work.methods.bound.tracker
    thinking = tracker._tables.thinking(tracker._states)
    last = tokens.view(-1, 3).gather(1, counts.long()[:, None] - 1)[:, 0]
    assert torch.equal(thinking, last == START)


def test_regular_rows_keep_what_the_engine_has_verified(
    at_work: Any, model: tuple[Tensor, Tensor, Tensor]
) -> None:
    rows = [REGULAR_ROW, Row("led", PARAMS), REGULAR_ROW, Row("led", PARAMS)]
    tokens, counts, accepted = verified(at_work, model, Draft((0, 5, 6), (-1, 0, 1)), rows, 1)
    for row in (0, 2):
        assert tokens.view(-1, 3)[row].tolist() == [1, 1, 1]
        assert int(counts[row]) == 1
        assert accepted[row].tolist() == [0, 0, 0]
    for row in (1, 3):
        assert int(accepted[row, 0]) == 3 * row


REFUSED: list[tuple[dict[str, Any], tuple[str, ...], str]] = [
    ({"speculative_algorithm": "DFLASH"}, ("led",), "--speculative-algorithm DFLASH"),
    ({"speculative_algorithm": "UNO"}, ("led",), "--speculative-algorithm UNO"),
    ({}, ("led", "soft-thinking"), "soft methods"),
    (
        {"speculative_use_rejection_sampling": True},
        ("led",),
        "--speculative-use-rejection-sampling",
    ),
    (
        {"speculative_use_block_verification": True},
        ("led",),
        "--speculative-use-block-verification",
    ),
    ({"speculative_adaptive": True}, ("led",), "--speculative-adaptive"),
    ({"enable_multi_layer_eagle": True}, ("led",), "--enable-multi-layer-eagle"),
    ({"enable_custom_logit_processor": True}, ("led",), "--enable-custom-logit-processor"),
    ({"enable_deterministic_inference": True}, ("dola",), "--enable-deterministic-inference"),
    ({"speculative_accept_threshold_acc": 0.9}, ("led",), "--speculative-accept-threshold-acc"),
    ({"speculative_accept_threshold_single": 0.5}, ("led",), "threshold-single below 1"),
    ({"attn_dp_size": 2}, ("led",), "attention data parallelism"),
    ({"disaggregation_mode": "decode"}, ("led",), "--disaggregation-mode decode"),
]


def launch(**flags: Any) -> Any:
    """SGLang's flags, those of NGRAM if nothing else is said."""
    off = dict.fromkeys((field for field, _ in spec_launch._REFUSED), False)
    return SimpleNamespace(
        **{
            "speculative_algorithm": "NGRAM",
            **off,
            **dict.fromkeys(spec_launch._THRESHOLDS, 1.0),
            "enable_dp_attention": False,
            "attn_dp_size": 1,
            "disaggregation_mode": "null",
            **flags,
        }
    )


@pytest.mark.parametrize(("flags", "enabled", "named"), REFUSED, ids=[n for *_, n in REFUSED])
def test_what_would_not_be_exact_is_refused_with_a_sentence(
    flags: dict[str, Any], enabled: tuple[str, ...], named: str
) -> None:
    with pytest.raises(LaunchRefused, match=named) as refusal:
        spec_launch.refuse_inexact_speculation(launch(**flags), enabled)
    assert "\n" not in str(refusal.value)
    assert "--sampler regular" in str(refusal.value)


def test_what_is_wired_and_not_proven_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    check = spec_launch.refuse_inexact_speculation
    assert check(launch(), ("led",)) is None
    assert check(launch(speculative_algorithm=None), ("led", "soft-thinking")) is None
    assert check(launch(speculative_algorithm="STANDALONE"), ("led",)) is None
    for algorithm in ("EAGLE", "EAGLE3"):
        assert "not proven" in str(check(launch(speculative_algorithm=algorithm), ("led",)))
    monkeypatch.setenv("SGLANG_SIMULATE_ACC_LEN", "2.5")
    with pytest.raises(LaunchRefused, match="SGLANG_SIMULATE_ACC_LEN"):
        check(launch(), ("led",))


@pytest.mark.parametrize(
    ("algorithm", "drafted", "refused"),
    [
        ("STANDALONE", 300, True),
        ("STANDALONE", 500, True),
        ("STANDALONE", 400, False),
        ("EAGLE3", 500, True),
        ("EAGLE3", 400, False),
        ("EAGLE3", 300, False),
        ("EAGLE", 500, False),  # it drafts with the model's own embedding and head
        ("NGRAM", 500, False),
    ],
)
def test_a_draft_model_of_another_vocabulary_is_refused(
    tmp_path: Path, algorithm: str, drafted: int, refused: bool
) -> None:
    config = {"architectures": ["LlamaForCausalLMEagle3"], "model_type": "llama"}
    sizes = {"vocab_size": drafted, "draft_vocab_size": 100}
    (tmp_path / "config.json").write_text(json.dumps(config | sizes))
    flags = launch(
        speculative_algorithm=algorithm,
        speculative_draft_model_path=str(tmp_path),
        speculative_draft_model_revision=None,
        trust_remote_code=False,
        model_path="another",
    )
    check = spec_launch.refuse_another_vocabulary
    if not refused:
        check(flags, 400)
        return
    with pytest.raises(LaunchRefused, match=f"{drafted} tokens, and the model one of 400") as said:
        check(flags, 400)
    assert "--speculative-draft-model-path" in str(said.value)


def forward(mode: ForwardMode, capture: CaptureHiddenMode, **more: Any) -> Any:
    return SimpleNamespace(forward_mode=mode, capture_hidden_mode=capture, **more)


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "settings_or_none", lambda: SimpleNamespace(captured=(2, 3, 5)))


def runner(algorithm: SpeculativeAlgorithm, model: Any = None, drafts: bool = False) -> Any:
    return SimpleNamespace(spec_algorithm=algorithm, is_draft_worker=drafts, model=model)


def parted(hidden: Tensor, last: Tensor | None, self: Any, forward_batch: Any) -> Any:
    output = SimpleNamespace(hidden_states=hidden, last_hidden_states=last)
    streams._part(SimpleNamespace(logits_output=output), self, forward_batch)
    return output


FULL, LAST = CaptureHiddenMode.FULL, CaptureHiddenMode.LAST


@pytest.mark.usefixtures("settings")
def test_a_drafter_gets_the_last_hidden_states_of_all_tokens_unchanged() -> None:
    """EAGLE and MTP, in a verification, where all rows have logits, and in a prefill."""
    hidden, last = torch.randn(9, 3 * H), torch.randn(9, H)
    eagle = runner(SpeculativeAlgorithm.EAGLE)
    output = parted(hidden, last, eagle, forward(ForwardMode.TARGET_VERIFY, FULL))
    assert output.hidden_states is last
    assert getattr(output, STREAMS_ATTRIBUTE) is hidden
    lengths = torch.tensor([4, 2, 3])
    prefill = forward(ForwardMode.EXTEND, FULL, extend_seq_lens=lengths)
    output = parted(hidden, last, eagle, prefill)
    assert output.hidden_states is last
    assert torch.equal(getattr(output, STREAMS_ATTRIBUTE), hidden[[3, 5, 8]])


@pytest.mark.usefixtures("settings")
def test_a_drafter_that_reads_no_hidden_states_gets_none() -> None:
    hidden = torch.randn(6, 3 * H)
    for algorithm in (SpeculativeAlgorithm.STANDALONE, SpeculativeAlgorithm.NGRAM):
        step = forward(ForwardMode.TARGET_VERIFY, LAST)
        output = parted(hidden, None, runner(algorithm), step)
        assert output.hidden_states is None
        assert getattr(output, STREAMS_ATTRIBUTE) is hidden


@pytest.mark.usefixtures("settings")
def test_streams_that_a_drafter_captures_too_are_parted_by_layer() -> None:
    """EAGLE3: each gets its own of the union, ascending; layers of both go to both."""
    model = SimpleNamespace()
    assert share_columns(model, [1, 2, 4], [0, 2, 6]) == [0, 1, 2, 4, 6]
    by_layer = torch.randn(6, 5, H)
    step = forward(ForwardMode.TARGET_VERIFY, FULL)
    eagle3 = runner(SpeculativeAlgorithm.EAGLE3, model)
    output = parted(by_layer.flatten(1), torch.randn(6, H), eagle3, step)
    assert torch.equal(output.hidden_states, by_layer[:, [0, 2, 4]].flatten(1))
    assert torch.equal(getattr(output, STREAMS_ATTRIBUTE), by_layer[:, [1, 2, 3]].flatten(1))


@pytest.mark.usefixtures("settings")
def test_drafters_and_servers_without_drafts_are_left_alone() -> None:
    hidden = torch.randn(6, 3 * H)
    step = forward(ForwardMode.DECODE, FULL)
    for self in (
        runner(SpeculativeAlgorithm.EAGLE, drafts=True),
        runner(SpeculativeAlgorithm.NONE),
    ):
        output = parted(hidden, None, self, step)
        assert output.hidden_states is hidden
        assert not hasattr(output, STREAMS_ATTRIBUTE)
        config = SpecAuxHiddenStateConfig()
        streams._capture_for_verification(
            config, spec_algorithm=self.spec_algorithm, is_draft_worker=self.is_draft_worker
        )
        assert not config.dflash_use_aux_hidden_state
    streams._capture_for_verification(
        config, spec_algorithm=SpeculativeAlgorithm.NGRAM, is_draft_worker=False
    )
    assert config.dflash_target_layer_ids == [1, 2, 4]


@pytest.mark.usefixtures("settings")
def test_streams_are_kept_where_the_engine_would_keep_none() -> None:
    for mode, kept in ((CaptureHiddenMode.NULL, LAST), (LAST, LAST), (FULL, FULL)):
        step = forward(ForwardMode.EXTEND, mode)
        streams._keep_streams(step, type(step), None, runner(SpeculativeAlgorithm.STANDALONE))
        assert step.capture_hidden_mode == kept
