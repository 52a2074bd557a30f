"""The files by which others work with the project: workflows, hooks, citation, issue form."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from led_sglang import __version__

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z][a-z-]*):(?!=)", makefile, re.MULTILINE))


def made(commands: list[str]) -> list[str]:
    """The targets that commands ask make for."""
    words = [shlex.split(line, comments=True) for c in commands for line in c.splitlines()]
    return [target for line in words if line[:1] == ["make"] for target in line[1:]]


def test_workflows_call_the_makefiles_targets() -> None:
    called: dict[str, list[str]] = {}
    for path in WORKFLOWS:
        jobs = read(f".github/workflows/{path.name}")["jobs"]
        runs = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
        called[path.stem] = made(runs)
        for job in jobs.values():
            assert 0 < job["timeout-minutes"] <= 120
    assert called == {"lint": ["lint"], "release": [], "test": ["test"]}
    assert {"lint", "test", "imports"} <= targets()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_on_the_oldest_python(path: Path) -> None:
    """With pip's cache, and no more rights than to read, but for the job that publishes."""
    workflow = read(f".github/workflows/{path.name}")
    setups = [
        step["with"]
        for job in workflow["jobs"].values()
        for step in job["steps"]
        if step.get("uses", "").startswith("actions/setup-python@")
    ]
    assert setups == [
        {"python-version": "3.11", "cache": "pip", "cache-dependency-path": "pyproject.toml"}
    ]
    assert workflow["permissions"] == {"contents": "read"}
    rights = {
        name: job["permissions"] for name, job in workflow["jobs"].items() if "permissions" in job
    }
    assert rights == ({"publish": {"id-token": "write"}} if path.stem == "release" else {})


def test_a_release_is_built_from_a_tag_and_published_without_a_token() -> None:
    workflow = read(".github/workflows/release.yml")
    # YAML 1.1, which PyYAML reads, takes the key `on` for true.
    assert workflow[True] == {"push": {"tags": ["v*"]}}
    build, publish = workflow["jobs"]["build"], workflow["jobs"]["publish"]
    assert "python -m build" in [step.get("run") for step in build["steps"]]
    assert publish["needs"] == "build"
    assert publish["steps"][-1] == {"uses": "pypa/gh-action-pypi-publish@release/v1"}


def test_hooks_run_the_checkouts_own_tools() -> None:
    """None brings a version of its own; `make lint` runs them all."""
    [repo] = read(".pre-commit-config.yaml")["repos"]
    assert repo["repo"] == "local"
    entries = {hook["id"]: shlex.split(hook["entry"]) for hook in repo["hooks"]}
    assert {hook["language"] for hook in repo["hooks"]} == {"system"}
    assert entries["ruff-check"][:2] == [".venv/bin/ruff", "check"]
    assert entries["ruff-format"][:3] == [".venv/bin/ruff", "format", "--check"]
    assert made([shlex.join(entries["import-linter"])]) == ["imports"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^lint:.*\n\t\$\(BIN\)/pre-commit run --all-files$", makefile, re.MULTILINE)


@pytest.mark.parametrize("tool", ["ruff", "mypy", "import-linter", "pre-commit"])
def test_a_tools_version_is_pinned_once(tool: str) -> None:
    places = ["pyproject.toml", "Makefile", ".pre-commit-config.yaml"]
    places += [f".github/workflows/{path.name}" for path in WORKFLOWS]
    pin = re.compile(rf"\b{tool}\s*(?:==|>=|~=|@)\s*v?[\d.]+")
    found = [hit for place in places for hit in pin.findall((ROOT / place).read_text("utf-8"))]
    assert len(found) == 1
    assert found[0].startswith(f"{tool}==")


def test_the_citation_names_the_paper_and_this_version() -> None:
    citation = read("CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "license"} <= set(citation)
    assert citation["version"] == __version__
    paper = citation["preferred-citation"]
    assert paper["type"] == "article"
    assert paper["title"] == (
        "Restoring Exploration after Post-Training: "
        "Latent Exploration Decoding for Large Reasoning Models"
    )
    assert paper["url"].endswith("2602.01698")
    names = [f"{author['given-names']} {author['family-names']}" for author in paper["authors"]]
    assert (names[0], names[-1], len(names)) == ("Wenhui Tan", "Jian Luan", 9)


def test_a_report_of_a_bug_brings_what_is_needed() -> None:
    form = read(".github/ISSUE_TEMPLATE/bug_report.yml")
    asked = {field["id"]: field for field in form["body"] if "id" in field}
    required = {name for name, f in asked.items() if f.get("validations", {}).get("required")}
    assert required == {"what", "launch", "doctor"}
    assert "led-sglang doctor" in asked["doctor"]["attributes"]["label"]
    assert "/server_info" in asked["server_info"]["attributes"]["description"]


def test_the_changelog_has_this_version_or_what_comes_next() -> None:
    """Keep a Changelog: versions from the newest down, each with a date but the unreleased one."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert versions[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", v) for v in versions[1:])
    kinds = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
