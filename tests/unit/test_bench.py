"""`led-sglang bench` without a server: plan, order, ratios, journal, report, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure

from led_sglang.bench import BenchError, command
from led_sglang.bench.figure import draw
from led_sglang.bench.load import load_flags
from led_sglang.bench.measure import Journal, run_plan
from led_sglang.bench.numbers import Run, row_of, run_of
from led_sglang.bench.plan import Plan, arms_of, explore_rates, regular
from led_sglang.bench.report import in_words, write_report
from led_sglang.bench.watch import ServerView
from led_sglang.cli import main
from led_sglang.common.client import ServerError
from led_sglang.common.journal import LineJournal

MACHINE = {"processor": "a processor", "copy_gb_per_s": 12.3456, "versions": "led-sglang 0"}


def plan_of(**changed: Any) -> Plan:
    settings: dict[str, Any] = {
        "baseline": regular(),
        "arms": arms_of(["regular", "led"], explore_rates("0.05,0.2"), False),
        "batch_sizes": (1, 8),
        "context": 16,
        "output_len": 32,
        "repeats": 2,
        "facts": {"model": "M"},
    }
    return Plan(**(settings | changed))


def result_of(ttfts: list[float], itls: list[list[float]]) -> dict[str, Any]:
    return {"ttfts": ttfts, "itls": itls, "output_throughput": 1.0}


def run(arm: str, step_ms: float, **changed: Any) -> Run:
    fields: dict[str, Any] = {
        "tokens_per_s": 8e3 / step_ms,
        "step_ms": step_ms,
        "token_ms_p50": step_ms,
        "token_ms_p99": 2 * step_ms,
        "whole_tokens_per_s": 1.0,
        "think_tokens": 0,
        "explored_tokens": 0,
        "projected_rows": 0,
        "led_steps": 0,
        "peak_memory_mb": None,
    }
    return Run(arm=arm, **(fields | changed))


def test_every_arm_has_a_baseline_beside_it_in_alternating_order() -> None:
    plan = plan_of()
    order = [[a.name for a in plan.order(pair)] for pair in plan.pairs(8)]
    assert order == [
        ["regular", "led, rate 0.05"],
        ["regular", "led, rate 0.2"],
        ["led, rate 0.05", "regular"],
        ["led, rate 0.2", "regular"],
    ]
    assert len({pair.key for size in (1, 8) for pair in plan.pairs(size)}) == 8


def test_arms_of_the_samplers() -> None:
    arms = arms_of(["led", "dola", "led"], explore_rates("confidence,0.1"), True)
    assert [arm.custom_params for arm in arms] == [
        {"sampler": "led", "led": {"think_only": True}},
        {"sampler": "led", "led": {"think_only": True, "gate": "rate", "gate_rate": 0.1}},
        {"sampler": "dola"},
    ]


@pytest.mark.parametrize("rates", ["1.01", "-0.1", "nan", "much", "0.1,2"])
def test_a_rate_outside_zero_to_one_is_refused(
    rates: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["bench", "--model-path", "m", "--explore-rate", rates, "--out", str(tmp_path / "o")]
    assert main(flags) == 2
    error = capsys.readouterr().err
    assert "--explore-rate" in error
    assert "from 0 to 1" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--samplers", "lde"], "--samplers lde is unknown"),
        (["--samplers", "regular"], "at least one beside regular"),
        (["--output-len", "4"], "--output-len"),
        (["--prompts", "/nowhere"], "--prompts /nowhere"),
    ],
)
def test_bad_flags_end_in_one_sentence(
    flags: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "--model-path", "m", *flags]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1


def test_prompts_are_read_before_a_server_is_started(tmp_path: Path) -> None:
    file, good = tmp_path / "prompts.jsonl", '{"conversations": [{"content": "a"}, {"value": "b"}]}'
    flags = ["--model-path", "m", "--prompts", str(file), "--batch-sizes", "1,2"]
    options, _ = command.read_flags(flags)
    for text, named in (
        ("", "holds 0 prompts and a batch takes 2"),
        (good, "holds 1 prompts"),
        (f"{good}\nnot json", "line 2 is not {conversations"),
        (f"{good}\n[1]", "line 2 is not"),
        (f'{good}\n{{"conversations": [{{"content": "a"}}]}}', "line 2 is not"),
        (f'{good}\n{{"conversations": [{{"content": 5}}, {{}}]}}', "line 2 is not"),
    ):
        file.write_text(text)
        with pytest.raises(BenchError, match=named):
            command.plan_of(options, [], baseline=regular(), arms=())
    file.write_text(f"{good}\n\n{good}\n")
    assert command.plan_of(options, [], baseline=regular(), arms=()).prompts == str(file)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--batch-sizes", "1,0"], "--batch-sizes: '0' is not a whole number from 1 up"),
        (["--repeats", "x"], "--repeats: 'x' is not a whole number from 1 up"),
        (["--context", "1,2"], "--context: '1,2' is not a whole number from 1 up"),
        (["--temperature", "nan"], "--temperature: 'nan' is not a number from 0 up"),
    ],
)
def test_numbers_that_are_none_end_in_one_sentence(
    flags: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "--model-path", "m", *flags])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1


def test_load_flags_send_the_arm_with_every_request() -> None:
    plan = plan_of()
    arm = plan.arms[1]
    flags = load_flags(plan, arm, 8, 3, "http://x", "M", Path("o"))
    body = json.loads(flags[flags.index("--extra-request-body") + 1])
    assert body["sampling_params"] == {
        "temperature": 0.6,
        "max_new_tokens": 32,
        "ignore_eos": True,
        "custom_params": arm.custom_params,
    }
    assert flags[flags.index("--num-prompts") + 1] == "8"
    assert flags[flags.index("--random-input-len") + 1] == "16"
    with_prompts = load_flags(plan_of(prompts="p"), arm, 8, 3, "http://x", "M", Path("o"))
    assert with_prompts[with_prompts.index("--dataset-path") + 1] == "p"
    assert "--random-input-len" not in with_prompts


def test_only_the_time_in_which_all_decode_counts() -> None:
    # The second request starts at 2 s; the first one ends at 5 s.
    result = result_of([1.0, 2.0], [[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 4.0]])
    totals = {"think_tokens": 10, "explored_tokens": 1, "projected_rows": 7, "steps": 4}
    more = {"think_tokens": 18, "explored_tokens": 3, "projected_rows": 21, "steps": 8}
    found = run_of("a", result, totals, more, 5.0)
    assert found.tokens_per_s == pytest.approx(6 / 3)
    assert found.step_ms == pytest.approx(1000)
    assert found.token_ms_p99 == pytest.approx(1000)
    assert (found.think_tokens, found.explored_tokens) == (8, 2)
    assert (found.projected_rows, found.led_steps) == (14, 4)
    assert found.explore_rate == pytest.approx(0.25)


def test_requests_that_never_meet_are_refused() -> None:
    with pytest.raises(BenchError, match="raise --output-len"):
        run_of("a", result_of([1.0, 9.0], [[1.0, 1.0], [1.0, 1.0]]), {}, {}, None)


def test_quantiles_of_the_time_per_token() -> None:
    gaps = [1.0] * 98 + [5.0, 9.0]
    found = run_of("a", result_of([0.0], [gaps]), {}, {}, None)
    assert found.token_ms_p50 == pytest.approx(1000)
    assert found.token_ms_p99 == pytest.approx(5000)


def test_ratios_are_of_pairs_and_keep_their_spread() -> None:
    # The machine slows down threefold; within each pair LED costs a quarter, a fifth, nothing.
    pairs = [
        (run("regular", 4.0), run("led", 5.0, think_tokens=8, explored_tokens=2, led_steps=4)),
        (run("regular", 8.0), run("led", 10.0, think_tokens=8, explored_tokens=0, led_steps=4)),
        (run("regular", 12.0), run("led", 12.0, projected_rows=14, peak_memory_mb=7.0)),
    ]
    row = row_of(8, pairs)
    assert row.ratio == pytest.approx(0.8)
    assert (row.ratio_low, row.ratio_high) == (pytest.approx(0.8), pytest.approx(1.0))
    assert row.added_us_per_step == pytest.approx(1000)
    assert row.explore_rate == pytest.approx(1 / 8)
    assert row.explorers_per_step == pytest.approx(2 / 8)
    assert row.projected_rows_per_step == pytest.approx(14 / 8)
    assert row.peak_memory_mb == 7.0
    assert row.baseline_peak_memory_mb is None


class FakeServer(ServerView):
    """A server without processes; dies when told to."""

    def __init__(self, pool: int = 10**6) -> None:
        super().__init__("http://nowhere", ())
        self.pool, self.alive = pool, True

    def info(self) -> dict[str, Any]:
        if not self.alive:
            raise ServerError("no answer from http://nowhere")
        state = {"effective_max_running_requests_per_dp": 100, "led": {"totals": {}}}
        return {"max_total_num_tokens": self.pool, "internal_states": [state]}

    def model_path(self) -> str:
        return "M"


class FakeLoad:
    """Runs without a load; fails from its `dies_at`-th call on, with the server."""

    def __init__(self, server: FakeServer, dies_at: int = 10**6) -> None:
        self.server, self.dies_at, self.calls = server, dies_at, 0

    def run(self, plan: Plan, arm: Any, size: int, *_: Any) -> dict[str, Any]:
        self.calls += 1
        if self.calls >= self.dies_at:
            self.server.alive = False
            raise BenchError("1 of 1 requests failed")
        gap = 0.02 if arm.name == "regular" else 0.025
        return result_of([0.1] * size, [[gap] * 31] * size)


def test_a_dying_server_leaves_the_finished_pairs(tmp_path: Path) -> None:
    plan, server = plan_of(), FakeServer()
    # Warm-ups of three arms, two pairs, and the first run of the third pair.
    journal = Journal(tmp_path, plan, resume=False)
    with pytest.raises(ServerError, match="no answer"):
        run_plan(plan, {"led": server}, FakeLoad(server, 8), journal, lambda: None)  # type: ignore[arg-type]
    assert len(journal.pairs) == 2
    assert Journal(tmp_path, plan, resume=True).pairs == journal.pairs


def measure(folder: Path, resume: bool) -> tuple[Journal, int]:
    """Run the plan to its end; the journal, and how many runs that took beside warm-ups."""
    plan, server = plan_of(), FakeServer()
    load, journal = FakeLoad(server), Journal(folder, plan, resume)
    lacking = {s for s in (1, 8) for pair in plan.pairs(s) if pair.key not in journal.pairs}
    run_plan(plan, {"led": server}, load, journal, lambda: None)  # type: ignore[arg-type]
    return journal, load.calls - 3 * len(lacking)


@pytest.mark.parametrize("lines", range(10))
@pytest.mark.parametrize("rest", ["nothing", "one byte", "half", "all but the end", "zeros"])
def test_killed_in_mid_line_nothing_finished_is_lost_or_done_twice(
    tmp_path: Path, lines: int, rest: str
) -> None:
    """`lines` are finished, and of the next one there is a part."""
    whole, _ = measure(tmp_path, resume=False)
    path = tmp_path / "runs.jsonl"
    written = path.read_bytes().splitlines(keepends=True)
    finished_lines = list(LineJournal(path, BenchError).lines())
    assert len(written) == len(finished_lines) == 1 + 8
    kept, line = b"".join(written[:lines]), (written[lines:] or [b'{"batch_size": 1}\n'])[0]
    parts = {"one byte": line[:1], "half": line[: len(line) // 2], "all but the end": line[:-1]}
    path.write_bytes(kept + {**parts, "nothing": b"", "zeros": bytes(500)}[rest])
    finished = max(0, lines - 1)

    if lines == 0:  # not even the settings are there: nothing to resume, nothing to refuse
        again, runs = measure(tmp_path, resume=False)
    else:
        again, runs = measure(tmp_path, resume=True)
    assert runs == 2 * (8 - finished)
    assert again.pairs == whole.pairs
    assert list(LineJournal(path, BenchError).lines()) == finished_lines
    assert Journal(tmp_path, plan_of(), resume=True).pairs == whole.pairs
    assert [row.ratio for row in again.rows(plan_of())] == [pytest.approx(0.8)] * 4


def test_a_run_that_ends_in_its_first_line_can_be_resumed(tmp_path: Path) -> None:
    for content in ("", '{"base'):
        (tmp_path / "runs.jsonl").write_text(content)
        assert measure(tmp_path, resume=True)[1] == 2 * 8
        (tmp_path / "runs.jsonl").unlink()


def test_a_pair_of_another_hand_is_named(tmp_path: Path) -> None:
    measure(tmp_path, resume=False)
    path = tmp_path / "runs.jsonl"
    lines = path.read_text().splitlines()
    for line in ("{}", '{"batch_size": 1, "rep' + lines[2]):
        path.write_text("\n".join([lines[0], line, *lines[2:], ""]))
        with pytest.raises(BenchError, match=r"runs\.jsonl, line 2 .*delete that line"):
            Journal(tmp_path, plan_of(), resume=True)


def test_a_journal_belongs_to_its_settings_once_a_pair_is_finished(tmp_path: Path) -> None:
    Journal(tmp_path, plan_of(context=17), resume=False)
    measure(tmp_path, resume=False)
    with pytest.raises(BenchError, match="--resume"):
        Journal(tmp_path, plan_of(), resume=False)
    with pytest.raises(BenchError, match="other settings"):
        Journal(tmp_path, plan_of(context=17), resume=True)


def test_a_batch_beyond_the_pool_is_left_out(tmp_path: Path) -> None:
    plan, server = plan_of(batch_sizes=(1, 8, 200)), FakeServer(pool=8 * 48)
    journal = Journal(tmp_path, plan, resume=False)
    refused = run_plan(plan, {"led": server}, FakeLoad(server), journal, lambda: None)  # type: ignore[arg-type]
    assert len(refused) == 1
    assert "batch size 200 needs 9600 KV tokens and the server's pool holds 384" in refused[0]
    assert {size for size, _, _ in journal.pairs} == {1, 8}
    assert "more than the 100 requests" in str(FakeServer().too_large(101, 1))


@pytest.mark.parametrize(("refused", "status"), [([], 0), (["batch size 200 does not fit"], 2)])
def test_what_was_left_out_shows_in_the_status(
    refused: list[str], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("led_sglang.bench.command._run", lambda *_: refused)
    assert main(["bench", "--model-path", "M"]) == status


def test_the_report_holds_every_number(tmp_path: Path) -> None:
    plan = plan_of()
    rows = [
        row_of(
            size,
            [
                (
                    run("regular", 4.0),
                    run(arm.name, 5.0, think_tokens=100, explored_tokens=n, led_steps=10),
                )
            ],
        )
        for size in (1, 8)
        for n, arm in zip((5, 20), plan.arms, strict=True)
    ]
    write_report(tmp_path, plan, MACHINE, rows, ["batch size 256 does not fit"])
    content = json.loads((tmp_path / "bench.json").read_text())
    assert [row["ratio"] for row in content["rows"]] == [pytest.approx(0.8)] * 4
    assert content["machine"] == MACHINE
    assert content["settings"]["arms"]["led, rate 0.2"]["led"]["gate_rate"] == 0.2
    text = (tmp_path / "bench.md").read_text()
    assert "| 8 | led, rate 0.2 | 1600.0 | 2000.0 | 0.800 (0.800 .. 0.800) | 1000 |" in text
    assert "copy gb per s: 12.3" in text
    assert "* batch size 256 does not fit" in text
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert in_words(rows, plan)[-1] == (
        "batch 8: led, rate 0.2 makes 1,600 tokens/s where regular makes 2,000, 80.0% of it "
        "(80.0% .. 80.0% over 1 pair), +1,000 us a step, with 20.0% of its tokens explored"
    )


def test_pairs_that_scatter_are_warned_about(tmp_path: Path) -> None:
    plan = plan_of()
    quiet = row_of(1, [(run("regular", 4.0), run("led", step)) for step in (5.0, 5.4)])
    loud = row_of(8, [(run("regular", 4.0), run("led", step)) for step in (5.0, 5.7)])
    write_report(tmp_path, plan, MACHINE, [quiet, loud], ["first"])
    first, warning = json.loads((tmp_path / "bench.json").read_text())["notes"]
    assert first == "first"
    assert warning.startswith("batch 8, led: the pairs scatter by 13% (0.702 .. 0.800)")
    assert f"* {warning}" in (tmp_path / "bench.md").read_text()


def test_the_picture_shows_measured_points_with_their_range(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(plt, "close", drawn.append)
    plan = plan_of(facts={"model": "models/some-model"})
    counted = {"think_tokens": 100, "explored_tokens": 10, "led_steps": 10}
    pairs = [(run("regular", 4.0), run("led, rate 0.05", step, **counted)) for step in (5.0, 6.0)]
    machine = {**MACHINE, "date": "2026-11-29", "device": "NVIDIA H200"}
    draw([row_of(8, pairs)], plan, machine, tmp_path / "x.png")
    (figure,) = drawn
    assert figure.get_suptitle() == "some-model\nNVIDIA H200, 2026-11-29"
    ratios, times = figure.axes
    assert ratios.get_ylabel() == "tokens per second, ratio to regular"
    for axis, value, low, high in ((ratios, 0.733, 0.667, 0.8), (times, 5.5, 5.0, 6.0)):
        (bars,) = axis.containers
        points, _, (ends,) = bars.lines
        assert points.get_ydata() == pytest.approx([value], abs=1e-3)
        (segment,) = ends.get_segments()
        assert segment[:, 1] == pytest.approx([low, high], abs=1e-3)
    # The baseline is a level of its own, no point at an explore rate that nobody measured.
    assert times.containers[0].lines[0].get_xdata() == pytest.approx([10.0])
    plt.close("all")
