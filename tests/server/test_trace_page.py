"""The trace viewer on hostile text and on very long answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser import Viewer, chromium
from selenium import webdriver

from led_sglang.trace import Step, Token, Trace, TraceSettings, write_page

HOSTILE = [
    "</script><script>window.ran = 1</script>",
    "<img src=x onerror='window.ran = 1'>",
    "<svg/onload=window.ran=1>",
    "<!--<script>",
    "]]></style><body onload=window.ran=1>",
    "{{constructor.constructor('window.ran=1')()}}",
    "\\u003cimg src=x onerror=window.ran=1>",
    "&lt;b&gt;",
    "@@DATA@@ @@SCRIPT@@",
    "javascript:window.ran=1",
]
WORDS = [" wait", ",", " so", " the", " sum", ".", "\n", " is", " 5", " hmm", " 漢", " ∑"]
LONG = 30_000


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path_factory.mktemp("profile")) as running:
        yield running


def made_trace(texts: list[str], count: int, depth: int = 8, candidates: int = 8) -> Trace:
    """Every third token explored; token ids count through `texts`."""
    generator = np.random.default_rng(0)
    token_texts = dict(enumerate(texts))
    settings = TraceSettings("confidence", num_layers=36)
    tokens = []
    for i in range(count):
        ids = tuple((i + k) % len(texts) for k in range(candidates))
        step = Step(
            explored=i % 3 == 2,
            depth=1 + i % depth if i % 3 == 2 else 1,
            p1=0.5,
            entropy=1.0,
            candidate_ids=ids,
            layer_probs=generator.dirichlet(np.ones(candidates), depth),
            behaviour_probs=generator.dirichlet(np.ones(candidates)),
            behaviour_logprob=-1.0,
            gate_draw=0.25,
            explore_probability=0.5,
        )
        tokens.append(Token(i, ids[0], token_texts[ids[0]], "think", step))
    return Trace(tuple(tokens), settings=settings, token_texts=token_texts)


def test_hostile_text_is_text(browser: webdriver.Chrome, tmp_path: Path) -> None:
    trace = made_trace(HOSTILE, 3 * len(HOSTILE), candidates=len(HOSTILE))
    evil = "".join(HOSTILE)
    trace = replace(trace, prompt=evil, model=evil, sampler=evil)
    viewer = Viewer(browser, write_page([trace, trace], tmp_path / "hostile.html"))
    for _ in trace.tokens[2::3]:
        viewer.press("n")
    assert viewer.script("return window.ran") is None
    assert viewer.script("return document.querySelectorAll('img, svg').length") == 0
    assert viewer.script("return document.scripts.length") == 2
    shown = viewer.script(
        "return [...document.querySelectorAll('.columns.text > div:first-child .t')]"
        ".map(t => t.textContent)"
    )
    assert shown == [token.text for token in trace.tokens]
    labels = "return [...document.querySelectorAll('thead span')].map(t => t.textContent)"
    assert len(viewer.script(labels)) == len(HOSTILE)
    assert viewer.script("return document.querySelector('#prompt p').textContent") == evil
    assert viewer.errors() == []


def test_a_second_wall_stops_what_is_not_the_viewer(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    viewer = Viewer(browser, write_page([made_trace(HOSTILE, 3)], tmp_path / "policy.html"))
    # If text ever became markup, the content security policy would still not run it.
    viewer.script("document.body.innerHTML += arguments[0]", "<img src=x onerror='window.ran=1'>")
    viewer.wait_until("return document.images.length == 1 && document.images[0].complete")
    assert viewer.script("return window.ran") is None
    assert any("Content Security Policy" in message["message"] for message in viewer.errors())


def test_controls_cannot_rearrange_the_page(browser: webdriver.Chrome, tmp_path: Path) -> None:
    trace = made_trace(["a\u202eb", "\x00\x1b[31m", "\x7f", "\u200b", "x\n"], 5, candidates=2)
    viewer = Viewer(browser, write_page([trace], tmp_path / "controls.html"))
    shown = viewer.script(
        "return [...document.querySelectorAll('.t[data-i]')].map(t => t.textContent)"
    )
    assert shown == ["a⟨202E⟩b", "^@^[[31m", "^?", "⟨200B⟩", "x\n"]
    assert viewer.errors() == []


def test_the_sign_of_a_line_break_covers_no_text(browser: webdriver.Chrome, tmp_path: Path) -> None:
    trace = made_trace(["x\n", "\n", "y"], 3, candidates=2)
    viewer = Viewer(browser, write_page([trace], tmp_path / "breaks.html"))
    signs = "return [...document.querySelectorAll('.t.newline')].map(t => t.textContent)"
    assert viewer.script(signs) == ["\n"]


def test_a_long_answer_keeps_few_elements(browser: webdriver.Chrome, tmp_path: Path) -> None:
    trace = made_trace(WORDS, LONG)
    viewer = Viewer(browser, write_page([trace], tmp_path / "long.html"))
    count = "return document.querySelectorAll('.t[data-i]').length"
    # The whole text is there for the browser's own search, the elements only near the window.
    text = viewer.script("return document.querySelector('.columns.text').textContent")
    assert text == "".join(token.text or "" for token in trace.tokens)
    assert 0 < viewer.script(count) < LONG // 10
    viewer.script("document.getElementById('texts').scrollTop = 1e9")
    viewer.wait_until(f"return document.querySelector('.t[data-i=\"{LONG - 1}\"]') !== null")
    assert viewer.script(count) < LONG // 10
    viewer.press("p")
    assert viewer.selected() < 30
    viewer.script("document.querySelector('.map').lastChild.click()")
    viewer.script(
        "const box = document.querySelector('.map').getBoundingClientRect();"
        "document.querySelector('.map').dispatchEvent("
        "new MouseEvent('click', {clientX: box.left + box.width * 0.5}))"
    )
    assert viewer.selected() == pytest.approx(LONG / 2, abs=LONG / 100)
    viewer.press("n")
    assert viewer.selected() % 3 == 2
    for depth, row in enumerate(trace.tokens[viewer.selected()].step.layer_probs, start=1):
        values = [value for _, value in viewer.cells(depth)]
        np.testing.assert_array_equal(values, row.astype(np.float32))
    # Tokens it lands on are in sight.
    assert viewer.script(
        "const t = document.querySelector('.t.selected').getBoundingClientRect();"
        "return t.top > 0 && t.bottom < innerHeight"
    )
    assert viewer.errors() == []


def test_numbers_and_words_are_those_a_reader_understands(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    trace = replace(made_trace(WORDS, 3), prompt="Is 91 a prime?")
    last = trace.tokens[2]
    assert last.step is not None
    tiny = last.step.layer_probs.copy()
    tiny[1, :3] = 4e-7, 3e-6, 0.0
    stayed = replace(last.step, depth=1, layer_probs=tiny, p1=5e-7, behaviour_logprob=-2e-8)
    trace = replace(trace, tokens=(*trace.tokens[:2], replace(last, step=stayed)))
    viewer = Viewer(browser, write_page([trace], tmp_path / "words.html"))
    shown = viewer.script(
        "return [...document.querySelectorAll(\"td.cell[data-row='2']\")].map(c => c.textContent)"
    )
    assert shown[:3] == ["<1e-6", "3e-6", "0"]
    panel = viewer.script("return document.getElementById('detail').innerText")
    assert "explored, stayed with the final layer" in panel
    assert "<1e-6" in panel.split("H(p")[0]  # p1
    assert ">-1e-6" in panel  # log q
    assert "stayed with the final layer ×1" in viewer.script(
        "return document.querySelector('.legend').innerText"
    )
    prompt = viewer.script("return document.querySelector('#prompt p').innerText")
    assert prompt == "Is 91 a prime?"  # innerText: it is in sight
    assert viewer.errors() == []


def test_a_comparison_can_be_read_on_a_phone(browser: webdriver.Chrome, tmp_path: Path) -> None:
    regular, led = replace(made_trace(WORDS, 40), sampler="regular"), made_trace(WORDS[1:], 40)
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        viewer = Viewer(browser, write_page([regular, led], tmp_path / "phone.html"))
        heads = """return [...document.querySelectorAll('.head')].map(
            head => head.getBoundingClientRect()).map(box => box.width)"""
        seen = []
        for _ in range(2):
            widths = viewer.script(heads)
            assert max(widths) > 350  # the whole window is one run's
            seen.append([width > 0 for width in widths])
            assert viewer.script("return document.documentElement.scrollWidth") == 390
            viewer.script("document.getElementById('side').click()")
        assert seen == [[True, False], [False, True]]
        assert viewer.errors() == []
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
