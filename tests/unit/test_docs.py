"""What the pages cite and link exists, and their tables are what the code declares."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest

from led_sglang.launch_options import LaunchOptions, flag_of
from led_sglang.methods.tables import keys, main, rewritten, samplers, table
from led_sglang.serving.arguments import parser

ROOT = Path(__file__).parents[2]
_NOT_OURS = {".git", ".venv", "__pycache__", "build", "dist", "node_modules"}
_TEXTS = {
    ".py",
    ".md",
    ".yaml",
    ".yml",
    ".toml",
    ".cff",
    ".js",
    ".css",
    ".html",
    ".sh",
    ".jinja",
    "",
}

_FENCE = re.compile(r"^(`{3,}|~{3,}).*?^\1", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?<=\n\n)(?:(?: {4}|\t)[^\n]*\n(?:\n+(?= {4}))?)+")
_CODE = re.compile(r"(`+).+?\1", re.DOTALL)
_LINK = re.compile(r"\[[^\[\]]*\]\(\s*<?([^)<>\s]+)>?(?:\s+\"[^\"]*\")?\s*\)")
_IMAGE_LINK = re.compile(r"!\[[^\[\]]*\]\([^)]*\)(?=\])")
_HEADING = re.compile(r"^#{1,6} +(.+?)(?: +#+)? *$", re.MULTILINE)
_CITED = re.compile(r"\b(docs/[\w-]+\.md)#([\w-]+)")


def files(*suffixes: str) -> Iterator[Path]:
    """The checkout's files that end so, without what is built or installed."""
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        ours = not any(p in _NOT_OURS or p.endswith((".egg-info", "_cache")) for p in parts)
        if ours and path.suffix in suffixes and path.is_file():
            yield path


@cache
def anchors(page: Path) -> frozenset[str]:
    """The anchors that GitHub gives the headings of a page."""
    seen: Counter[str] = Counter()
    result = set()
    for heading in _HEADING.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        text = re.sub(r"!?\[([^\[\]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", text.lower().replace("`", "")).replace(" ", "-")
        result.add(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
        seen[anchor] += 1
    return frozenset(result)


def links(page: Path) -> Iterator[str]:
    """The targets of a page's links and images; what stands in code is none."""
    text = _INDENTED.sub("\n", _FENCE.sub("", page.read_text(encoding="utf-8")))
    text = _CODE.sub("", text)
    for image in _IMAGE_LINK.findall(text):  # a picture that is a link: both targets count
        yield from _LINK.findall(image)
    yield from _LINK.findall(_IMAGE_LINK.sub("", text))


@pytest.mark.parametrize(
    ("headings", "expected"),
    [
        ("# One LED step", {"one-led-step"}),
        (
            "## `led`: Latent Exploration (arXiv 2602.01698)",
            {"led-latent-exploration-arxiv-260201698"},
        ),
        ("## Log-probabilities\n### What's q? ##", {"log-probabilities", "whats-q"}),
        ("# Two\n# Two\n", {"two", "two-1"}),
        ("# See [a page](x.md)\n```\n# no heading\n```\n", {"see-a-page"}),
        ("#no heading\n", set()),
    ],
)
def test_anchors_are_githubs(tmp_path: Path, headings: str, expected: set[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text(headings)
    assert anchors(page) == expected


def test_links_are_found_where_a_reader_sees_one(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        '[a](a.md) ![b](b.png) [![c](c.png)](c.md) [d](<d.md> "title") `[e](e.md)`\n'
        "[f\ng](f.md#x)\n```\n[h](h.md)\n```\n\n    [i](i.md)\n\n[j](j.md)\n"
    )
    assert sorted(links(page)) == [
        "a.md", "b.png", "c.md", "c.png", "d.md", "f.md#x", "j.md",
    ]  # fmt: skip


def test_every_cited_section_exists() -> None:
    cited = 0
    for path in files(*_TEXTS):
        for page, anchor in _CITED.findall(path.read_text(encoding="utf-8")):
            cited += 1
            assert (ROOT / page).is_file(), f"{path} cites {page}, which does not exist"
            assert anchor in anchors(ROOT / page), f"{path} cites {page}#{anchor}: no such heading"
    assert cited > 50


def test_every_relative_link_leads_somewhere() -> None:
    followed = 0
    for page in files(".md"):
        for target in links(page):
            if re.match(r"[a-z][a-z+.-]*:", target):
                continue
            followed += 1
            name, _, anchor = target.partition("#")
            place = (page.parent / name).resolve() if name else page
            assert place.exists(), f"{page} links {target}, which does not exist"
            assert place.is_relative_to(ROOT), f"{page} links {target}, outside of the checkout"
            if anchor:
                assert anchor in anchors(place), f"{page} links {target}: no such heading"
    assert followed > 50


def test_the_contract_is_cited_by_the_page_that_is_shipped() -> None:
    old = re.compile(r"\b" + "SP" + r"EC\b")
    assert [
        str(path) for path in files(*_TEXTS) if old.search(path.read_text(encoding="utf-8"))
    ] == []


@pytest.mark.parametrize(
    ("page", "shown"),
    [
        ("README.md", {"led"}),
        ("docs/methods.md", set(samplers()) - {"led"}),
    ],
)
def test_tables_of_parameters_are_the_declarations(page: str, shown: set[str]) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert set(re.findall(r"<!-- parameters of (\S+)", text)) == shown
    assert rewritten(text) == text, f"python -m led_sglang.methods.tables {page} rewrites it"


def test_a_changed_table_is_rewritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "before\n<!-- parameters of dola -->\n| stale |\n<!-- end -->\nbetween\n"
        "<!-- parameters of soft-thinking-gumbel beyond soft-thinking --><!-- not a table's\n"
    )
    main([str(page)])
    text = page.read_text()
    assert "stale" not in text
    assert text.startswith("before\n<!-- parameters of dola -->\n| key | values |")
    assert "\n| `relative_top` | (0, 1] | 0.1 | " in text
    assert text.endswith("not a table's\n")
    main([])
    printed = capsys.readouterr().out
    assert all(f"{sampler}\n\n{table(sampler)}" in printed for sampler in samplers())


def test_the_table_of_a_variant_holds_what_it_adds() -> None:
    added = table("soft-thinking-gumbel", beyond="soft-thinking").splitlines()[2:]
    assert [row.split("|")[1].strip() for row in added] == ["`gumbel_temperature`"]


def test_help_names_the_keys_of_every_method() -> None:
    shown = parser().format_help()
    assert len(keys().splitlines()) == len(samplers())
    for line in keys().splitlines():
        assert f"\n  {line}\n" in shown
    assert "dola: layers, relative_top, divergence" in keys()


def test_the_table_of_flags_is_the_launch_options() -> None:
    """Names in their order, and each default as `led-sglang serve --help` states it."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(--[a-z-]+)` \|.*\| (.+) \|$", text, re.MULTILINE)
    options = [
        (flag_of(option.name), re.search(r"\(default: (.+)\)$", option.metadata["help"]))
        for option in fields(LaunchOptions)
    ]
    assert [(flag, default.replace("`", "")) for flag, default in rows] == [
        (flag, default and default[1]) for flag, default in options
    ]
