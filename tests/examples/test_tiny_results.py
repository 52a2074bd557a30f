"""RESULTS.md of the tiny reasoner: checked thoughts, allowed tokens, and the page itself."""

from __future__ import annotations

import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from eval_harness import led_eval, running
from fake_engine import FakeEngine
from tiny_reasoner.data import read
from tiny_reasoner.explored import Pair, Step, read_pairs
from tiny_reasoner.grade import grade
from tiny_reasoner.planned import planned
from tiny_reasoner.reproduce import HERE
from tiny_reasoner.results import Reproduction, read_layers, write_results
from tiny_reasoner.task import LEVELS, Problem, make_problem, make_thought
from tiny_reasoner.thoughts import check_thought, parse_problem, share_of_mistakes
from tiny_reasoner.tokenizer import make_tokenizer
from tiny_reasoner.unsure import allowed_tokens, unsure_steps

from led_sglang.models.bundled import bundled_model

SEARCH = LEVELS["search"]
# Solution 6245317; 6 3 1 7 is a dead end.
PROBLEM = parse_problem(
    "Visit every room once. Doors: 1-3 3-6 3-5 2-6 1-7 2-4 4-6 1-6 4-5 Start: 6"
)
SOLVED = "6 3 1 7 stuck\n6 2 4 5 3 1 7 done\n"


@pytest.fixture(scope="module")
def thoughts() -> list[tuple[Problem, str]]:
    rng = random.Random(5)
    problems = [make_problem(rng, SEARCH) for _ in range(100)]
    return [(problem, make_thought(problem, rng, SEARCH)) for problem in problems]


def test_a_problem_is_read_from_its_text(thoughts: list[tuple[Problem, str]]) -> None:
    assert all(parse_problem(problem.text) == problem for problem, _ in thoughts)
    assert PROBLEM.answer == "6245317"


def test_the_traces_of_the_training_are_without_mistakes(
    thoughts: list[tuple[Problem, str]],
) -> None:
    for problem, text in thoughts:
        found = check_thought(problem, text)
        assert found.walks == len(text.splitlines())
        assert not any((found.false_step, found.false_mark, found.again))


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("6 7 stuck\n", "false_step"),  # no such door
        ("6 3 6 2 stuck\n", "false_step"),  # twice
        ("3 1 7 stuck\n", "false_step"),  # another start
        ("6 3 1 stuck\n", "false_mark"),  # 7 is left
        ("6 3 1 7 done\n", "false_mark"),
        ("6 2 4 5 3 1 7 stuck\n", "false_mark"),
        ("hello", "false_mark"),
        ("6 3 1 7 stuck\n" * 2, "again"),
    ],
)
def test_a_mistake_is_found(text: str, mistake: str) -> None:
    found = check_thought(PROBLEM, text)
    names = ("false_step", "false_mark", "again")
    assert getattr(found, mistake)
    if mistake != "false_step":  # a walk through a wall is also marked wrongly at times
        assert [name for name in names if getattr(found, name)] == [mistake]


def test_the_last_walk_of_a_thought_that_was_cut_off_is_not_judged() -> None:
    row = {"problem": PROBLEM.text, "reasoning_content": "6 3 1 7 stuck\n6 2 4 ", "truncated": True}
    assert share_of_mistakes([row, row | {"reasoning_content": SOLVED, "truncated": False}]) == {
        **{"walks": 1.5, "false_step": 0.0, "false_mark": 0.0, "again": 0.0},
        "cut_off": 0.5,
    }


def test_every_token_of_a_trace_is_allowed(thoughts: list[tuple[Problem, str]]) -> None:
    tokenizer: Any = make_tokenizer(SEARCH.rooms)
    for problem, text in thoughts[:30]:
        ids = tokenizer(text + "</think>")["input_ids"]
        for index, token in enumerate(ids):
            allowed = allowed_tokens(tokenizer, problem, tokenizer.decode(ids[:index]))
            assert token in allowed
            assert len(allowed) <= 5
    walk = allowed_tokens(tokenizer, PROBLEM, "6 3 1 7 stuck\n6 ")
    assert walk == {tokenizer(f"{room} ")["input_ids"][0] for room in (1, 2, 3, 4)}


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ("\n\n6245317", (True, "6245317")),
        ("6245317 ", (True, "6245317")),
        ("7135426", (False, "7135426")),
        ("6245317 or 7", (False, None)),
        ("", (False, None)),
    ],
)
def test_the_answer_is_the_walk_and_nothing_else(
    answer: str, verdict: tuple[bool, str | None]
) -> None:
    assert grade({"expected_answer": "6245317"}, answer) == verdict


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `reproduce.py` fills it; the server says the same whatever it is asked."""
    folder = tmp_path_factory.mktemp("reproduce")
    with running(FakeEngine(says=f"{SOLVED}</think>\n\n6245317")) as url:
        done = led_eval(
            *("--base-url", url, "--run-dir", folder / "after", "--limit", 2, "--n", 4),
            *("--tasks", HERE / "held_out.yaml", "--samplers", "regular,led"),
            *("--temperatures", "0.1,1.0", "--grade-workers", 1),
        )
    assert done.returncode == 0, done.stderr
    for name in ("before", "ablations"):
        shutil.copytree(folder / "after", folder / name)
    heads = "tokens,layer,depth,final_norm,entropy,r_1,r_2,r_4,r_8,r_16\n"
    layers = "all,1,2,False,0.25,0.5,0.5,0.5,0.5,0.5\nall,1,2,True,0.75,0.5,0.5,0.5,0.5,0.5\n"
    layers += "think,1,2,False,0.5,0.5,0.5,0.5,0.5,0.5\n"
    for label in ("before", "after"):
        (folder / f"layers-{label}").mkdir()
        last = "all,2,1,True,0.125,1.0,1.0,1.0,1.0,1.0\n"
        last = last.replace("True", "False") + last
        (folder / f"layers-{label}" / "layers.csv").write_text(heads + layers + last)
    return folder


def pair(*, regular: bool, led: bool) -> Pair:
    """Two samples of six think tokens; LED's explored one of them."""
    step = Step(
        explored=led and not regular,
        right=led,
        allowed=True,
        gate=0.5,
        final_right=0.25,
        mix_right=0.5,
        judged=False,
    )
    place = "forced" if regular else "fork on track"
    return Pair(regular, led, explored=True, parted=True, places=[place], steps=[step], tokens=6)


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ((1.0, 9.0), "LED helps"),
        ((-9.0, -1.0), "LED harms"),
        ((-2.0, 4.5), "no difference larger than 4.5"),
        ((-2.0, 5.5), "cannot tell"),
    ],
)
def test_verdicts_are_those_of_the_plan(ends: tuple[float, float], said: str) -> None:
    entry = {"difference": sum(ends) / 2, "low": ends[0], "high": ends[1], "detectable": 3.0}
    cells = [("pass@1", 0.6), ("pass@16", 0.1), ("pass@16", 0.6)]
    paired = [
        entry | {"sampler": sampler, "metric": metric, "temperature": temperature}
        for sampler in ("led", "dola")
        for metric, temperature in cells
    ]
    primary, *secondary = planned(paired).rows
    assert primary[:3] == ["primary", "pass@16", "0.6"]
    assert primary[-1] == said
    low, high = (float(text) for text in secondary[0][4].split(" .. "))
    # At 99.3% the interval is longer by 2.69 / 1.96.
    assert high - low == pytest.approx(1.3724 * (ends[1] - ends[0]), abs=0.02)
    assert [row[0] for row in secondary] == ["secondary"] * 2


def test_layers_are_read_with_and_without_the_norm(runs: Path) -> None:
    first, last = read_layers(runs / "layers-after")
    assert first == {"entropy": 0.25, "normed_entropy": 0.75, "r_1": 0.5, "r_8": 0.5}
    assert last["entropy"] == last["normed_entropy"] == 0.125


def test_the_page_holds_the_numbers_of_the_runs(runs: Path, tmp_path: Path) -> None:
    measured = {
        "problems": 2,
        "chance": 0.125,
        "thought_tokens": 20.0,
        **{f"greedy_accuracy{end}": 0.5 for end in ("", "_stderr")},
        **{f"sampled_accuracy{end}": 0.25 for end in ("", "_stderr")},
        **{f"top1{end}": 0.875 for end in ("", "_stderr")},
        **{f"entropy{end}": 0.375 for end in ("", "_stderr")},
    }
    step = dict.fromkeys(
        ("share", "final_allowed", "mix_allowed", "final_entropy", "mix_entropy", "deep"), 0.625
    )
    results = Reproduction(
        folder=runs,
        measured={"before": measured, "after": measured},
        unsure={("after", 0.3, False): step | {"distance": 0.0625}},
        pairs={0.3: [pair(regular=False, led=True), pair(regular=True, led=True)]},
        level="budget",
        minutes=3.0,
        cores=2,
    )
    reading = tmp_path / "reading.md"
    reading.write_text("# What we make of it\n\nNothing.\n")
    page = write_results(results, tmp_path, reading).read_text()
    # One of the two problems is answered rightly by every sample.
    shares = r"\| 50\.0 \(9\.5 \.\. 90\.5\) "
    assert len(re.findall(shares, page)) == 2 * (2 * 4 + 4) + 2 * 4 * 4  # and Cover@tau
    for text in (
        "96 of 96 samples",
        "50.0 ± 50.0 |   12.5 | 25.0 ± 25.0 | 0.875 ± 0.875 | 0.375 ± 0.375",
        "pass@1 of LED against regular decoding, after RL: cannot tell at T = 0.1, 1.",
        "| 1     |             0.2500 |",
        "| 0.3 | 2 | 16.67 | 50.0 | 0.0 | 50.0 |",
        "| 0.3 | explored, other answer | 2 | 50.0 | 100.0 | 1 | 0 |",
        "0.062",
    ):
        assert text in page or text in re.sub(" +", " ", page)
    assert page.endswith("# What we make of it\n\nNothing.\n")
    shown = re.findall(r"\]\((plots/.*?\.png)\)", page)
    assert len(shown) >= 5
    assert all((tmp_path / name).stat().st_size > 5_000 for name in shown)


def test_explored_steps_are_told_apart(tmp_path: Path) -> None:
    """6 is the start, solution 6245317: from 6 four rooms are left, from 2 one."""
    tokenizer: Any = make_tokenizer(SEARCH.rooms)

    def token(text: str, *, explored: bool = False) -> dict[str, Any]:
        (token_id, *_), (other, *_) = (tokenizer(t)["input_ids"] for t in (text, "3 "))
        return {
            "token_id": token_id,
            "explored": explored,
            "explore_probability": 0.25,
            "candidate_ids": [other, token_id],
            # The final layer has it at 0.2; with the latent below, the mix at 0.35.
            "layer_probs": [[0.8, 0.2], [0.5, 0.5]],
        }

    trace = [token("6 "), token("2 ", explored=True), token("4 ", explored=True), token("5 ")]
    answers = {"regular": "6 3 1 7 stuck\n</think>\n\n6317", "led": f"{SOLVED}</think>\n\n6245317"}
    row = {"id": "0", "problem": PROBLEM.text}
    (tmp_path / "pairs.jsonl").write_text(
        json.dumps({"id": "0", "temperature": 0.6, "trace": trace, **answers}) + "\n"
    )
    ((found,),) = read_pairs(tmp_path / "pairs.jsonl", [row], tokenizer).values()
    assert (found.regular, found.led, found.explored, found.parted) == (False, True, True, True)
    assert found.places == ["fork on track", "forced"]
    # From 2 and from 4 one room is left.
    (first,) = found.steps
    assert (first.explored, first.right, first.allowed, first.judged) == (True, True, True, False)
    assert (first.final_right, first.mix_right) == (pytest.approx(0.2), pytest.approx(0.35))


def test_a_thought_that_may_try_one_walk_ends_with_it() -> None:
    tokenizer: Any = make_tokenizer(SEARCH.rooms)
    end = {tokenizer.convert_tokens_to_ids("</think>")}
    assert allowed_tokens(tokenizer, PROBLEM, "6 3 1 7 stuck\n", walks=1) == end
    assert allowed_tokens(tokenizer, PROBLEM, "6 3 1 7 stuck\n", walks=2) != end


def test_unsure_steps_of_the_bundled_model(tmp_path: Path) -> None:
    """A thought that goes as the search allows: what the model offers beside it is allowed too."""
    tokenizer: Any = make_tokenizer(SEARCH.rooms)
    rows = read(HERE / "held_out.jsonl")[:4]
    rng = random.Random(0)
    with (tmp_path / "tokens.jsonl").open("w") as file:
        for row in rows:
            message = [{"role": "user", "content": row["problem"]}]
            prompt = tokenizer.apply_chat_template(
                message, tokenize=False, add_generation_prompt=True
            )
            thought = make_thought(parse_problem(row["problem"]), rng, SEARCH) + "</think>"
            ids = {"prompt_ids": tokenizer(prompt)["input_ids"]}
            file.write(json.dumps(ids | {"output_ids": tokenizer(thought)["input_ids"]}) + "\n")
    found = unsure_steps(
        bundled_model(),
        tmp_path / "tokens.jsonl",
        [row["problem"] for row in rows],
        temperature=0.6,
    )
    assert found["steps"] >= 4
    assert 0.02 < found["share"] < 0.6
    assert found["final_allowed"] > 0.9
    # The mix is the entropy-richest of the layers, the final one among them.
    assert found["mix_entropy"] >= found["final_entropy"]
