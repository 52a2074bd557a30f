"""The report in a browser: complete, self-contained, readable in light and dark, escaped."""

from __future__ import annotations

import base64
import csv
import html
import io
import itertools
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from browser import chromium
from eval_harness import TASKS, engine, led_eval, running, small_grid
from matplotlib import pyplot as plt
from pylatexenc.latexwalker import LatexEnvironmentNode, LatexWalker
from selenium.webdriver import Chrome

PLOTS = ["pass_at_n", "cover", "paired", "alpha", "length", "exploration"]
SAMPLES = 320
LAPTOP = 1280


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("report") / "run"
    with running(engine()) as url:
        done = led_eval(*small_grid(url, folder))
    assert done.returncode == 0, done.stderr
    return exported(folder)


def exported(folder: Path) -> Path:
    done = led_eval("--run-dir", folder, "--export")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("profile"), width=LAPTOP, height=768) as running_browser:
        yield running_browser


def test_console_lines_are_seen(browser: Chrome, tmp_path: Path) -> None:
    """The next test would pass in silence if the browser did not log."""
    page = tmp_path / "page.html"
    page.write_text("<script>console.error('seen')</script>")
    browser.get(page.as_uri())
    assert ["seen" in entry["message"] for entry in browser.get_log("browser")] == [True]


def test_browser_shows_every_plot_without_a_console_line(browser: Chrome, run_dir: Path) -> None:
    browser.get((run_dir / "report.html").as_uri())
    assert browser.get_log("browser") == []
    script = """
        return [...document.querySelectorAll('figure')].map(figure => {
            const box = figure.querySelector('svg').getBoundingClientRect();
            return [figure.id, box.width, box.height, figure.querySelectorAll('path').length];
        })"""
    figures = browser.execute_script(script)
    assert [name for name, *_ in figures] == PLOTS
    for _, width, height, paths in figures:
        assert 1000 < width <= 1008  # 10.5 inches, so that one text size stays one
        assert height > 200
        assert paths > 10
    for name in PLOTS:
        assert (run_dir / "plots" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("width", [LAPTOP, 390])
def test_no_page_scrolls_sideways(
    browser: Chrome, run_dir: Path, attacked: Path, width: int
) -> None:
    pages = [
        *run_dir.glob("*.html"),
        *run_dir.glob("pages/gsm8k/*.html"),
        *attacked.rglob("*.html"),
    ]
    assert len(pages) == 8
    screen = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < LAPTOP}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    try:
        for page in pages:
            browser.get(page.as_uri())
            browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = 1)")
            wide, seen = browser.execute_script(
                "const all = document.documentElement; return [all.scrollWidth, all.clientWidth]"
            )
            assert wide == seen <= width
            assert browser.get_log("browser") == []
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_problem_page_puts_the_samplers_side_by_side(browser: Chrome, run_dir: Path) -> None:
    browser.get(next(run_dir.glob("pages/gsm8k/*.html")).as_uri())
    script = """
        return [...document.querySelectorAll('.columns')].map(row => [...row.children].map(
            column => [column.querySelector('h3').firstChild.textContent.trim(),
                       column.getBoundingClientRect().left]))"""
    for row in browser.execute_script(script):
        assert [name for name, _ in row] == ["regular", "led"]
        assert row[0][1] < row[1][1]
    samples = browser.execute_script(
        "return [...document.querySelectorAll('section.sample')].map(s => [s.className,"
        " getComputedStyle(s).borderLeftColor,"
        " s.querySelector('details:last-child pre').textContent])"
    )
    colours = {colour for kind, colour, _ in samples if kind == "sample correct"}
    others = {colour for kind, colour, _ in samples if kind == "sample wrong"}
    assert len(colours) == 1
    assert not colours & others
    command = samples[0][2]
    assert command.startswith(f"led-sglang trace --from-run {run_dir} --sample gsm8k/")
    assert "--sampler regular --temperature 0.1" in command


def test_header_says_where_the_numbers_come_from(run_dir: Path) -> None:
    text, page = ((run_dir / name).read_text() for name in ("report.md", "report.html"))
    facts = dict(re.findall(r"^- ([\w' ]+): (.*)$", text, re.MULTILINE))
    assert re.match(r"# model\n", text)  # not fake/model
    assert "<h1>model</h1>" in page
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", facts["date"])
    assert re.fullmatch(r"\d+ s of generation, [\d,]+ tokens/s", facts["duration"])
    assert facts["samplers"] == "regular (baseline), led"
    assert facts["command"].startswith("led-sglang eval --base-url http")
    assert all(name in facts["versions"] for name in ("led-sglang", "sglang", "torch"))
    assert "math-verify" in facts["grader"]
    assert {"client", "model", "server", "sampling", "concurrency"} <= facts.keys()
    shown = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page))
    assert {html.unescape(k): html.unescape(v) for k, v in shown.items()} == facts


def test_export_holds_the_numbers_of_the_json(run_dir: Path) -> None:
    metrics = json.loads((run_dir / "metrics.json").read_text())
    tables = {}
    for name in ("accuracy", "differences"):
        with (run_dir / "tables" / f"{name}.csv").open() as lines:
            tables[name] = list(csv.DictReader(lines))
    for row, entry in zip(tables["differences"], metrics["paired"], strict=True):
        assert {key: str(value) for key, value in entry.items()} == row
    found = {}
    for row in tables["accuracy"]:
        found[row["task"], row["sampler"], row["temperature"], row["metric"]] = [
            float(row[key]) for key in ("value", "low", "high")
        ]
    for task, cells in [*metrics["tasks"].items(), ("average", metrics["average"])]:
        for sampler, temperature in itertools.product(("regular", "led"), ("0.1", "0.6")):
            for name in ("pass@1[avg-of-4]", "bayes@4", "pass@4"):
                entry = cells[sampler][temperature][name]
                numbers = [entry["symbolic_correct"], *entry["interval"]]
                assert found[task, sampler, temperature, name] == numbers


def test_latex_tables_are_whole(run_dir: Path) -> None:
    """Strictly parsed: every environment, group and formula is closed, every row is complete; and
    the caption says of how many samples and problems the numbers are, and what their intervals."""
    problems = ", ".join(f"5 of {task}" for task in TASKS)
    said = {
        "accuracy": f"4 samples of each problem ({problems})",
        "differences": r"95\% bootstrap intervals over problems",
    }
    for name, sentence in said.items():
        text = (run_dir / "tables" / f"{name}.tex").read_text()
        nodes, *_ = LatexWalker(text, tolerant_parsing=False).get_latex_nodes()
        (table,) = [node for node in nodes if isinstance(node, LatexEnvironmentNode)]
        inner = [node for node in table.nodelist if isinstance(node, LatexEnvironmentNode)]
        assert [table.environmentname, *(node.environmentname for node in inner)] == [
            *("table", "tabular")
        ]
        (caption,) = re.findall(r"\\caption\{(.*)\}\n", text)
        assert sentence in caption
        assert not re.search(r"(?<!\\)[%#_]", caption)
        assert f"\\label{{tab:led-{name}}}" in text
        columns = re.search(r"\\begin\{tabular\}\{([lr]+)\}", text)
        assert columns is not None
        rows = [line for line in text.splitlines() if line.endswith(r"\\")]
        assert len(rows) > 10
        for row in rows:
            assert len(re.findall(r"(?<!\\)&", row)) == len(columns[1]) - 1
            assert not re.search(r"(?<!\\)[%#_]", row)


def test_page_begins_with_the_answer_and_keeps_the_order_of_the_grid(
    browser: Chrome, run_dir: Path
) -> None:
    browser.get((run_dir / "report.html").as_uri())
    headings = browser.execute_script(
        "return [...document.querySelectorAll('h2')].map(h => h.textContent)"
    )
    assert headings[:2] == ["In short", "Accuracy"]
    heads = browser.execute_script(
        "return [...document.querySelectorAll('table')[1].querySelectorAll('th')]"
        ".map(h => h.textContent)"
    )
    assert heads == ["task", "sampler", "T", "pass@1", "Bayes@4", "pass@4"]
    columns = browser.execute_script(
        "return [...document.querySelectorAll('td.samples')[0].closest('table').rows[0].cells]"
        ".map(cell => cell.textContent)"
    )
    assert columns == [
        *("problem", "regular, T = 0.1", "regular, T = 0.6", "led, T = 0.1", "led, T = 0.6")
    ]
    labels = browser.execute_script(
        "return [...document.querySelectorAll('table')[1].querySelectorAll('tbody tr')]"
        ".map(row => [...row.cells].slice(0, 3).map(cell => cell.textContent))"
    )
    names = [(T, s) for T in ("0.1", "0.6") for s in ("regular", "led")]
    assert labels == [[task, s, T] for task in [*TASKS, "average"] for T, s in names]


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_ink_stands_out_in_light_and_dark(browser: Chrome, run_dir: Path, scheme: str) -> None:
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get((run_dir / "report.html").as_uri())
    whole = {"captureBeyondViewport": True, "clip": _clip(browser)}
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", whole)["data"]
    grey = plt.imread(io.BytesIO(base64.b64decode(shot)))[..., :3].mean(axis=2)
    paper = float(np.median(grey))
    assert (paper < 0.2) if scheme == "dark" else (paper > 0.8)
    # Ink of every band of the page, plots included, is far from the paper.
    for band in np.array_split(grey, 8):
        assert float(np.abs(band - paper).max()) > 0.5


def _clip(browser: Chrome) -> dict[str, int]:
    height = browser.execute_script("return document.documentElement.scrollHeight")
    return {"x": 0, "y": 0, "width": LAPTOP, "height": height, "scale": 1}


def test_report_asks_for_nothing(run_dir: Path) -> None:
    pages = [run_dir / "report.html", *run_dir.glob("pages/*/*.html")]
    assert len(pages) == 21
    for page in pages:
        html = page.read_text()
        assert "<script" not in html
        fetched = re.findall(r'(?:src|href|xlink:href)="([^"]*)"|url\(([^)]*)\)', html)
        for target in (first or second for first, second in fetched):
            assert not re.match(r"\s*(https?:|//)", target), target
        assert "@import" not in html


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "a" and values.get("href"):
            self.links.append(str(values["href"]))
        if values.get("id"):
            self.ids.add(str(values["id"]))


def _parsed(page: Path) -> _Links:
    parser = _Links()
    parser.feed(page.read_text())
    return parser


def test_every_sample_is_linked(run_dir: Path) -> None:
    links = _parsed(run_dir / "report.html").links
    assert len(links) == len(set(links)) == SAMPLES
    for link in links:
        path, _, anchor = link.partition("#")
        assert unquote(anchor) in _parsed(run_dir / unquote(path)).ids


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one problem; it and its answers are HTML."""
    tmp_path = tmp_path_factory.mktemp("attacked")
    attack = "<script>alert(1)</script><img src=x onerror=alert(2)>'\"&\udcff"
    data = tmp_path / "items.jsonl"
    item = {"id": f"a/../{attack[:-1]}", "problem": attack[:-1], "expected_answer": "2"}
    data.write_text(json.dumps(item) + "\n")
    says = f"{attack}</think>{attack} \\boxed{{{attack}}}"
    with running(engine(says=says)) as url:
        grid = small_grid(url, tmp_path / "run", "--data", f"aime24={data}", tasks=["aime24"])
        done = led_eval(*grid)
    assert done.returncode == 0, done.stderr
    return exported(tmp_path / "run")


def test_what_models_and_files_say_is_escaped(attacked: Path) -> None:
    pages = [attacked / "report.html", *(attacked / "pages").rglob("*.html")]
    assert len(pages) == 2
    for page in pages:
        html = page.read_text()
        assert "<script" not in html
        assert "<img" not in html
        assert "&lt;script&gt;" in html


def test_nothing_says_nan(run_dir: Path, attacked: Path) -> None:
    """A run of several problems, and one of a single problem, which says nothing of the others."""
    for folder in (run_dir, attacked):
        assert "NaN" not in (folder / "metrics.json").read_text()
        for file in ("report.md", "report.html", *sorted((folder / "tables").iterdir())):
            assert not re.search(r"\b(nan|inf)\b", (folder / file).read_text(), re.IGNORECASE)
    entry = json.loads((attacked / "metrics.json").read_text())["tasks"]["aime24"]["led"]["0.6"]
    assert entry["pass@1[avg-of-4]"]["avg_tokens_interval"] is None


def test_markdown_report_has_the_same_numbers(run_dir: Path) -> None:
    text = (run_dir / "report.md").read_text()
    metrics = json.loads((run_dir / "metrics.json").read_text())
    cell = metrics["tasks"]["gsm8k"]["led"]["0.6"]
    first = cell["pass@1[avg-of-4]"]
    low, high = first["interval"]
    assert f"{first['symbolic_correct']:.1f} ({low:.1f} .. {high:.1f})" in text
    (short,) = [
        entry
        for entry in metrics["paired"]
        if (entry["task"], entry["temperature"], entry["metric"]) == ("average", 0.6, "pass@1")
    ]
    ends = f"({short['low']:+.1f} .. {short['high']:+.1f})"
    in_short = text.split("## Accuracy")[0]
    assert f"{short['difference']:+.1f} {ends}" in in_short
    assert f"| {short['detectable']:.1f} |" in re.sub(" +", " ", in_short)
    assert short["verdict"] in in_short
    slopes = {entry["sampler"]: entry["alpha"] for entry in metrics["alpha"]}
    assert f"{slopes['led']:+.1f}" in text
