"""The tiny reasoner's task: one solution, honest traces, a split by shape, a strict reward."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest
from tiny_reasoner.data import HELD_OUT, RL_PROBLEMS, TRACES, read, write
from tiny_reasoner.task import (
    DONE,
    LEVELS,
    Problem,
    completion,
    make_problem,
    make_thought,
    reward,
)
from tiny_reasoner.thoughts import check_thought
from tiny_reasoner.tokenizer import make_tokenizer

SEARCH, BUDGET = LEVELS["search"], LEVELS["budget"]


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    rng = random.Random(7)
    return [make_problem(rng, SEARCH) for _ in range(200)]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer(SEARCH.rooms)


def brute_force(problem: Problem) -> list[tuple[int, ...]]:
    doors = {frozenset(door) for door in problem.doors}
    return [
        walk
        for walk in itertools.permutations(range(1, problem.rooms + 1))
        if walk[0] == problem.start
        and all(frozenset(pair) in doors for pair in itertools.pairwise(walk))
    ]


def renamed(problem: Problem, rng: random.Random) -> Problem:
    rooms = range(1, problem.rooms + 1)
    names = dict(zip(rooms, rng.sample(rooms, problem.rooms), strict=True))
    doors = [tuple(sorted((names[a], names[b]))) for a, b in problem.doors]
    rng.shuffle(doors)
    return Problem(tuple((a, b) for a, b in doors), names[problem.start])


def test_every_problem_has_one_solution(problems: list[Problem]) -> None:
    harder = make_problem(random.Random(3), BUDGET)
    assert (harder.rooms, len(harder.doors)) == (BUDGET.rooms, BUDGET.doors)
    assert harder.answer == "".join(map(str, *brute_force(harder)))
    for problem in problems[:20]:
        assert len({frozenset(door) for door in problem.doors}) == SEARCH.doors
        (walk,) = brute_force(problem)
        assert problem.answer == "".join(map(str, walk))


def test_a_thought_is_a_search_that_ends_at_the_solution(problems: list[Problem]) -> None:
    rng, dead_ends = random.Random(3), 0
    for problem in problems:
        lines = make_thought(problem, rng, SEARCH).splitlines()
        walks = [tuple(map(int, line.split()[:-1])) for line in lines]
        assert sum(len(walk) + 1 for walk in walks) <= SEARCH.longest
        assert [line.split()[-1] for line in lines] == ["stuck"] * (len(lines) - 1) + ["done"]
        assert walks[-1] == brute_force(problem)[0]
        assert len(set(walks)) == len(walks)
        for walk in walks:
            assert walk[0] == problem.start
            assert len(set(walk)) == len(walk)
            assert all(b in problem.neighbours[a] for a, b in itertools.pairwise(walk))
        for before, after in itertools.pairwise(walks):
            # Stuck: nothing new next door. Back: as far as the last room with another way on.
            assert set(problem.neighbours[before[-1]]) <= set(before)
            turn = next(i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b)
            dead_ends += 1
            for index in range(turn, len(before) - 1):
                ways = set(problem.neighbours[before[index]]) - set(before[: index + 1])
                tried = {w[index + 1] for w in walks if w[: index + 1] == before[: index + 1]}
                assert ways <= tried
    assert dead_ends > 2 * len(problems)


def test_a_thought_of_the_budget_is_one_walk_and_the_answer_is_that_walk() -> None:
    rng, right = random.Random(4), 0
    problems = [make_problem(rng, BUDGET) for _ in range(200)]
    for problem in problems:
        (line,) = make_thought(problem, rng, BUDGET).splitlines(keepends=True)
        assert len(line.split()) <= BUDGET.longest
        found = check_thought(problem, line)
        assert (found.walks, found.false_step, found.false_mark) == (1, False, False)
        is_right = reward(completion(line), problem.answer) == 1.0
        assert is_right == line.endswith(DONE)
        right += is_right
    # The first right one of four searches, or the last: 1 - (1 - chance)^4.
    expected = sum(1 - (1 - problem.chance) ** 4 for problem in problems) / 200
    assert right / 200 == pytest.approx(expected, abs=0.1)


def test_the_chance_level_is_the_share_of_random_walks_that_are_right() -> None:
    problem = make_problem(random.Random(11), SEARCH)
    rng, right = random.Random(0), 0
    for _ in range(4000):
        walk = [problem.start]
        while ways := [room for room in problem.neighbours[walk[-1]] if room not in walk]:
            walk.append(rng.choice(ways))
        right += "".join(map(str, walk)) == problem.answer
    assert right / 4000 == pytest.approx(problem.chance, abs=0.03)


def test_renaming_rooms_changes_no_digest(problems: list[Problem]) -> None:
    rng = random.Random(1)
    for problem in problems:
        assert renamed(problem, rng).digest == problem.digest
    assert len({problem.digest for problem in problems}) > 30


def test_held_out_shapes_are_in_no_training_file(tmp_path: Path) -> None:
    write(tmp_path, SEARCH, traces=300, rl_problems=100, held_out=100, seed=5)
    train = read(tmp_path / TRACES) + read(tmp_path / RL_PROBLEMS)
    held_out = read(tmp_path / HELD_OUT)
    assert len({row["problem"] for row in train}) == 400
    assert len({row["problem"] for row in held_out}) == 100
    assert not {row["shape"] for row in train} & {row["shape"] for row in held_out}
    again = tmp_path / "again"
    write(again, SEARCH, traces=300, rl_problems=100, held_out=100, seed=5)
    assert (again / TRACES).read_bytes() == (tmp_path / TRACES).read_bytes()
    assert json.loads((again / HELD_OUT).read_text().splitlines()[0]) == held_out[0]


def test_a_word_of_the_task_is_one_token(tokenizer: Any, problems: list[Problem]) -> None:
    rng = random.Random(2)
    for problem in problems[:50]:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": problem.text}], tokenize=False, add_generation_prompt=True
        )
        thought = make_thought(problem, rng, SEARCH)
        text = completion(thought)
        assert reward(text, problem.answer) == 1.0
        ids, more = (tokenizer(part)["input_ids"] for part in (prompt, text))
        assert len(ids) == 11 + SEARCH.doors
        assert len(more) == len(thought.split()) + 2 + SEARCH.rooms + 1
        assert tokenizer(prompt + text)["input_ids"] == ids + more
        assert tokenizer.decode(ids + more) == prompt + text


def test_a_walk_and_a_door_have_tokens_of_their_own(tokenizer: Any) -> None:
    door, room = tokenizer("3-5 ")["input_ids"], tokenizer("5 ")["input_ids"]
    assert len(door) == len(room) == 1
    assert tokenizer.decode(tokenizer("3 - 5, naïve 家")["input_ids"]) == "3 - 5, naïve 家"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 2 done\n</think>\n\n12<|im_end|>", 1.0),
        ("1 2 done\n</think>\n\n12", 1.0),
        ("1 2 done\n</think>\n\n12<|im_end|><|endoftext|><|endoftext|>", 1.0),
        ("1 2 done\n</think>\n\n21<|im_end|>", 0.0),
        ("1 2 done\n</think>\n\n12 or 21<|im_end|>", 0.0),
        ("1 2 done\n</think>\n\n1212", 0.0),
        ("1 2 done\n</think>\n\n", 0.0),
        ("1 2 done\n12<|im_end|>", 0.0),
        ("12", 0.0),
    ],
)
def test_the_reward_wants_the_answer_and_nothing_else(text: str, value: float) -> None:
    assert reward(text, "12") == value
