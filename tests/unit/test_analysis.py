"""Layer statistics against a dense float64 computation, on three families; flat memory; rules."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import t as student
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from led_sglang.analysis import COVERAGE_SIZES, AnalysisError, LayerAnalysis, recommended_depth
from led_sglang.analysis.reduction import Head, entropy_and_top
from led_sglang.analysis.statistics import LayerTable, recommend
from led_sglang.models.bundled import bundled_model
from led_sglang.models.random_qwen3 import write_random_qwen3

SIZES: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    # Transformers' own 0.02 leaves the layers alike; wide enough that they differ.
    "initializer_range": 0.15,
}
# Two logits at the k-th place closer than this may change places between float32 and float64.
NEAR_TIE = 1e-4


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def bundled(_: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(bundled_model(), dtype=torch.float32)


def random_qwen3(folder: Path) -> Any:
    path = write_random_qwen3(folder / "qwen3", dtype="float32")
    return AutoModelForCausalLM.from_pretrained(path)


def llama(_: Path) -> Any:
    return LlamaForCausalLM(LlamaConfig(vocab_size=501, tie_word_embeddings=False, **SIZES))


def gemma2(_: Path) -> Any:
    # sandwich norms, a softcap, scaled embeddings, layers that attend to a short window only
    config = Gemma2Config(vocab_size=389, final_logit_softcapping=5.0, sliding_window=16, **SIZES)
    return Gemma2ForCausalLM(config)


def cohere(_: Path) -> Any:
    return CohereForCausalLM(CohereConfig(vocab_size=300, logit_scale=0.5, **SIZES))


def granite(_: Path) -> Any:
    return GraniteForCausalLM(GraniteConfig(vocab_size=300, logits_scaling=3.0, **SIZES))


FAMILIES = (bundled, random_qwen3, llama, gemma2, cohere, granite)


def sequences(vocab: int, count: int = 4) -> list[tuple[list[int], list[int]]]:
    generator = torch.Generator().manual_seed(1)
    lengths = [(1, 1), (7, 40), (40, 90), (3, 130)][:count]
    draw = lambda n: torch.randint(vocab, (n,), generator=generator).tolist()  # noqa: E731
    return [(draw(p), draw(n)) for p, n in lengths]


def shared_share(ids: torch.Tensor) -> torch.Tensor:
    """r_k [2, L, T, 5] of ids [2, L, T, 16], with Python's own sets."""
    variants, layers, tokens, _ = ids.shape
    out = torch.empty(variants, layers, tokens, len(COVERAGE_SIZES), dtype=torch.float64)
    for v, layer, t in np.ndindex(variants, layers, tokens):
        ours, final = ids[v, layer, t].tolist(), ids[v, -1, t].tolist()
        shares = [len(set(ours[:k]) & set(final[:k])) / k for k in COVERAGE_SIZES]
        out[v, layer, t] = torch.tensor(shares, dtype=torch.float64)
    return out


@torch.no_grad()
def dense(
    model: Any, data: Sequence[tuple[list[int], list[int]]], temperature: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Normalised entropies [2, L], coverage [2, L, 5], near ties [2, L, 5]: everything at once in
    float64 from `output_hidden_states`, which for the last layer is normed already."""
    model = model.double()
    shape = model.config
    layers, vocab = shape.num_hidden_layers, shape.vocab_size
    entropy, coverage, ties = [], [], []
    for prompt, tokens in data:
        out = model(torch.tensor([prompt + tokens]), output_hidden_states=True)
        norm, positions = model.model.norm, slice(len(prompt) - 1, -1)
        z = torch.empty(2, layers, len(tokens), vocab, dtype=torch.float64)
        for layer in range(layers):
            hidden = out.hidden_states[layer + 1][0, positions]
            for variant in (0, 1):
                if layer == layers - 1:
                    z[variant, layer] = out.logits[0, positions]
                    continue
                raw = model.lm_head(norm(hidden) if variant else hidden)
                raw = raw * (getattr(shape, "logit_scale", None) or 1.0)
                raw = raw / (getattr(shape, "logits_scaling", None) or 1.0)
                cap = getattr(shape, "final_logit_softcapping", None)
                z[variant, layer] = raw if cap is None else torch.tanh(raw / cap) * cap
        logp = (z / temperature).log_softmax(-1)
        entropy.append(-(logp.exp() * logp).sum(-1) / np.log(vocab))
        ordered, ids = z.sort(-1, descending=True)
        coverage.append(shared_share(ids[..., :16]))
        gaps = torch.stack(
            [ordered[..., k - 1] - ordered[..., k] < NEAR_TIE for k in COVERAGE_SIZES], dim=-1
        )
        ties.append((gaps | gaps[:, -1:]).double())
    cat = [torch.cat(parts, dim=2).mean(2).numpy() for parts in (entropy, coverage, ties)]
    return cat[0], cat[1], cat[2]


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_a_dense_computation(family: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = family(tmp_path).eval()
    assert model.dtype == torch.float32
    if family is not bundled:  # norms of one would leave the order of the logits as it is
        for name, parameter in model.named_parameters():
            if "norm" in name:
                torch.nn.init.uniform_(parameter, 0.5, 1.5)
    data = sequences(model.config.vocab_size)
    # 32 tokens a forward: every longer sequence crosses the KV cache several times
    analysis = LayerAnalysis(model, temperature=0.6, chunk=32)
    for prompt, tokens in data:
        analysis.add(prompt, tokens)
    table = analysis.table()
    entropy, coverage, ties = dense(model, data, 0.6)
    assert table.tokens == sum(len(tokens) for _, tokens in data)
    np.testing.assert_allclose(table.entropy, entropy, rtol=1e-4)
    # A near tie may put one token of k in or out.
    slack = ties / np.array(COVERAGE_SIZES)
    assert ties.mean() < 0.01
    assert (np.abs(table.coverage - coverage) <= 1e-4 * coverage + slack).all()
    assert (table.coverage[:, -1] == 1.0).all()
    # The families must have something to tell apart, or equality would mean little.
    assert np.ptp(table.entropy[0]) > 0.02
    assert 0.02 < table.coverage[0, -2, -1] < 0.98


def test_streaming_over_the_vocabulary_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from led_sglang.analysis import reduction

    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(37, 16, generator=generator)
    head = Head(torch.randn(1003, 16, generator=generator) * 3, torch.randn(1003), 0.7, 20.0)
    z = head.logits(hidden).double()
    logp = (z / 0.5).log_softmax(1)
    monkeypatch.setattr(reduction, "_COLUMNS", 9)  # fewer columns than tokens wanted
    monkeypatch.setattr(reduction, "_TEMPORARY_ELEMENTS", 100)
    entropies, p1, ids = entropy_and_top(hidden, head, 0.5, 16)
    torch.testing.assert_close(p1, logp.exp().amax(1), rtol=1e-5, atol=0.0)
    torch.testing.assert_close(entropies, -(logp.exp() * logp).sum(1), rtol=1e-5, atol=1e-9)
    assert torch.equal(ids, z.topk(16, dim=1).indices)


def test_entropy_of_a_confident_row_keeps_its_digits() -> None:
    # One logit stands 20 above 999 others: H is about 2e-6 * 21.
    hidden = torch.tensor([[1.0]])
    weight = torch.zeros(1000, 1)
    weight[3] = 20.0
    entropy, p1, ids = entropy_and_top(hidden, Head(weight), 1.0, 1)
    logp = weight[:, 0].double().log_softmax(0)
    assert float(entropy) == pytest.approx(float(-(logp.exp() * logp).sum()), rel=1e-5)
    assert float(p1) == pytest.approx(float(logp[3].exp()))
    assert ids.tolist() == [[3]]


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor any operation makes."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for made in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(made, torch.Tensor):
                self.largest = max(self.largest, made.numel())
        return out


def test_buffers_do_not_grow_with_tokens(tmp_path: Path) -> None:
    model = llama(tmp_path).eval()
    analysis = LayerAnalysis(model, temperature=1.0, chunk=32)

    def alive() -> int:
        gc.collect()
        found = [o for o in gc.get_objects() if isinstance(o, torch.Tensor)]
        return sum(t.nbytes for t in {id(t): t for t in found}.values())

    analysis.add([1], [2] * 64)
    before = alive()
    with LargestTensor() as seen:
        for _ in range(5):
            analysis.add([1], [3] * 400)
    assert alive() == before
    assert analysis.table().tokens == 64 + 5 * 400
    # The largest is one chunk's logits of one layer, or the model's own attention.
    assert seen.largest <= 32 * max(501, 4 * 400)


def table_of(coverage16: Sequence[float], vocab: int) -> LayerTable:
    coverage = np.zeros((2, len(coverage16), len(COVERAGE_SIZES)))
    coverage[0, :, -1] = coverage16
    coverage[1] = 1.0  # with the final norm; not looked at
    return LayerTable(1, vocab, np.zeros((2, len(coverage16))), coverage)


# Figure 4 of the paper, Qwen3-4B-Thinking, k = 16: the known points, straight lines in between.
FIGURE_4 = np.interp(
    np.arange(1, 37),
    [1, 23, 24, 28, 30, 32, 34, 35, 36],
    [0.0, 0.0, 0.05, 0.20, 0.35, 0.47, 0.57, 0.46, 1.0],
).tolist()


@pytest.mark.parametrize(
    ("coverage16", "vocab", "threshold", "depth"),
    [
        ([0.0, 0.0, 0.01, 0.051, 0.3, 1.0], 152_000, 0.05, 3),
        ([0.9, 0.0, 0.2, 1.0], 152_000, 0.05, 2),  # what covers below a gap does not count
        ([0.0, 0.0, 1.0], 152_000, 0.05, 1),
        ([0.5, 0.5, 1.0], 152_000, 0.05, 3),
        # Two random sets of 16 among 64 tokens share 0.25: 0.28 is next to nothing, 0.29 is not.
        ([0.28, 0.29, 1.0], 64, 0.05, 2),
        (FIGURE_4, 151_936, 0.05, 12),
        (FIGURE_4, 151_936, 0.25, 8),
    ],
)
def test_recommended_depth(
    coverage16: list[float], vocab: int, threshold: float, depth: int
) -> None:
    assert recommended_depth(table_of(coverage16, vocab), threshold) == depth


def test_where_no_layer_is_less_sure_there_is_nothing_to_explore() -> None:
    covering = table_of([0.0, 0.5, 0.5, 1.0], 152_000)
    covering.entropy[0] = [0.9, 0.2, 0.3, 0.3]  # what covers nothing does not count
    found = recommend({"all": covering}, 0.05)
    assert (found.depth, found.covering) == (1, 3)
    assert "no layer holds what the final one lost" in found.sentence
    covering.entropy[0, 1] = 0.31
    assert recommend({"all": covering}, 0.05).depth == 3


def test_groups_and_bands_are_those_of_a_dense_computation(tmp_path: Path) -> None:
    """Thoughts, answers and uncertain tokens apart; bands from the sums of each prompt."""
    torch.manual_seed(0)
    model = llama(tmp_path).eval()
    data = sequences(501)
    analysis = LayerAnalysis(model, temperature=0.1, chunk=32)
    thinks = [[i % 3 == 0 for i in range(len(tokens))] for _, tokens in data]
    for (prompt, tokens), thought in zip(data, thinks, strict=True):
        analysis.add(prompt, tokens, thought)
    tables = analysis.tables()
    entropies, largest = [], []
    for prompt, tokens in data:
        with torch.no_grad():
            logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
        logp = (logits.double() / 0.1).log_softmax(-1)
        entropies.append((-(logp.exp() * logp).sum(-1) / np.log(501)).numpy())
        largest.append(logp.exp().amax(-1).numpy())
    masks = {
        "all": [np.ones(len(x), bool) for x in largest],
        "uncertain": [x < 0.9 for x in largest],
        "think": [np.array(x) for x in thinks],
        "answer": [~np.array(x) for x in thinks],
    }
    assert 0 < np.concatenate(masks["uncertain"]).mean() < 1
    for group, mask in masks.items():
        sums = np.array([x[m].sum() for x, m in zip(entropies, mask, strict=True)])
        counts = np.array([m.sum() for m in mask], dtype=float)
        table = tables[group]
        assert table.tokens == counts.sum()
        ratio = sums.sum() / counts.sum()
        assert table.entropy[0, -1] == pytest.approx(ratio, rel=1e-4)
        used = counts > 0
        rest = (sums - ratio * counts)[used]
        error = rest.std(ddof=1) / np.sqrt(used.sum()) / counts[used].mean()
        half = student.ppf(0.975, used.sum() - 1) * error
        assert table.entropy_band is not None
        ends = [max(0.0, ratio - half), min(1.0, ratio + half)]
        assert table.entropy_band[:, 0, -1] == pytest.approx(ends, rel=1e-3, abs=1e-6)
    unthinking = LayerAnalysis(model, temperature=0.1)
    unthinking.add(*data[0], [False] * len(data[0][1]))
    assert "answer" not in unthinking.tables()  # it would be all of them again


def test_what_cannot_be_analysed_is_refused() -> None:
    shape = GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=64, n_positions=64)
    with pytest.raises(AnalysisError, match="GPT2LMHeadModel: expected a decoder with `layers`"):
        LayerAnalysis(GPT2LMHeadModel(shape).eval(), temperature=1.0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, **SIZES)).eval()
    model.config.final_logit_softcapping = 1.0  # says what the model does not do
    with pytest.raises(AnalysisError, match="shapes its logits"):
        LayerAnalysis(model, temperature=1.0)
    with pytest.raises(AnalysisError, match="16 tokens has no top 16"):
        LayerAnalysis(LlamaForCausalLM(LlamaConfig(vocab_size=16, **SIZES)).eval(), temperature=1.0)


def test_nothing_analysed_is_an_error(tmp_path: Path) -> None:
    analysis = LayerAnalysis(llama(tmp_path).eval(), temperature=1.0)
    analysis.add([1, 2], [])
    with pytest.raises(ValueError, match="no token"):
        analysis.table()
