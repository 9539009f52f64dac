"""The drill in parts: shares that add up, a run that goes on where it was, figures put together."""

import json
import logging
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drill import cli, progress
from drill.latency import Latency
from drill.levels import FULL, LEVELS
from drill.parts import DIVIDED, LONGEST_S, plan
from drill.progress import Asked, DrillTrouble, Progress, goes_on
from drill.report import Findings, add_up, together
from drill.scenarios import SCENARIOS
from drill.stage import Drill

PATH = Path("/kept/run.json")


@pytest.mark.parametrize("level", LEVELS.values(), ids=LEVELS)
def test_the_parts_of_a_scenario_are_all_of_it(level: Any) -> None:
    parts = plan(SCENARIOS, level)
    assert list(dict.fromkeys(part.scenario for part in parts)) == list(SCENARIOS)
    for name, how in DIVIDED.items():
        for field in (how.amount, *how.others):
            shares = [getattr(part.level, field) for part in parts if part.scenario == name]
            assert sum(shares) == getattr(level, field), f"{field} of {name}"
            assert max(shares) - min(shares) <= 1
    kinds = [kind for part in parts if part.scenario == "attacks" for kind in part.level.attack_kinds]
    assert tuple(kinds) == level.attack_kinds


def test_the_full_drill_has_what_was_promised_in_parts_of_minutes() -> None:
    parts = plan(SCENARIOS, FULL)
    assert len({part.name for part in parts}) == len(parts)
    assert max(part.seconds for part in parts) <= LONGEST_S
    amounts = (FULL.worker_kills, FULL.least_requests, FULL.tree_kills, FULL.outage_s, FULL.histories)
    assert amounts == (1000, 200_000, 200, 3600, 10**6)
    assert min(part.level.year_users for part in parts if part.scenario == "year") >= 3, "one in each zone"
    assert f"{len(parts)} parts" in (cli.ROOT / "docs" / "durability.md").read_text()


def test_a_whole_scenario_is_one_part_with_everything() -> None:
    (part,) = plan(["outage"], FULL, is_whole=True)
    assert (part.name, part.level) == ("outage", FULL)


def test_each_part_makes_its_own_choices_and_the_same_again() -> None:
    first, second, *_ = plan(["worker-kills"], FULL)
    assert first.random(7).random() == first.random(7).random()
    assert len({part.random(seed).random() for part in (first, second) for seed in (7, 8)}) == 4


def kept(*done: str, **other: Any) -> Progress:
    run = Progress("full", 7, [], None, False, ["a", "b", "c"], **other)
    for name in done:
        run.note(name, Findings(name, requests=10, seconds=1.5))
    return run


def test_an_unfinished_run_goes_on_without_being_asked_to() -> None:
    assert goes_on(kept("a"), Asked("full"), PATH)
    assert goes_on(kept("a"), Asked("full", seed=7), PATH)
    assert goes_on(kept(), Asked("full"), PATH)
    assert not goes_on(None, Asked("full"), PATH)


def test_a_finished_run_makes_room_for_the_next_unless_it_is_to_be_told_again() -> None:
    assert not goes_on(kept("a", "b", "c"), Asked("full"), PATH)
    assert not goes_on(kept("a", "b", "c"), Asked("full", seed=8), PATH)
    assert goes_on(kept("a", "b", "c"), Asked("full", resumes=True), PATH)


def test_fresh_begins_anew_whatever_is_kept() -> None:
    assert not goes_on(kept("a"), Asked("full", seed=8, is_fresh=True), PATH)


def test_resume_needs_a_run_and_takes_over_what_it_was_asked() -> None:
    with pytest.raises(DrillTrouble, match=r"no run to resume in /kept/run\.json"):
        goes_on(None, Asked("full", resumes=True), PATH)
    run = kept("a")
    run.only, run.rate, run.is_whole = ["outage"], 50.0, True
    assert goes_on(run, Asked("full", resumes=True), PATH)
    with pytest.raises(DrillTrouble):
        goes_on(run, Asked("full"), PATH)


@pytest.mark.parametrize(
    "asked",
    [
        Asked("short"),
        Asked("full", seed=8),
        Asked("full", seed=8, resumes=True),
        Asked("full", only=("cuts",)),
        Asked("full", only=("cuts",), resumes=True),
        Asked("full", rate=50),
        Asked("full", is_whole=True),
    ],
    ids=str,
)
def test_a_run_never_goes_on_as_another_one(asked: Asked) -> None:
    with pytest.raises(DrillTrouble, match=r"level full, seed 7, 1 of 3 parts done.*--fresh"):
        goes_on(kept("a"), asked, PATH)


def test_what_is_kept_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "var" / "run.json"
    assert progress.read(path) is None
    findings = Findings("a", kills=2, figures={"latency": Latency(1.0, 2.0, 0.5, 3), "pair": (1, 2.5)})
    findings.problem("something is missing")
    run = kept("b", code=["v1"], directory="/tmp/weir-drill-x")
    run.note("a", findings)
    progress.write(run, path)
    found = progress.read(path)
    assert found == run
    assert found is not None
    first, second = found.findings()
    assert (first.scenario, second.scenario) == ("a", "b"), "in the order of the plan"
    assert (first.problems, first.result) == (["something is missing"], "1 problems")
    assert [entry.name for entry in path.parent.iterdir()] == ["run.json"]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": 1}', '{"format": 99}', "null"])
def test_a_damaged_file_is_said_and_not_overwritten(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(DrillTrouble, match="--fresh begins anew"):
        progress.read(path)
    assert path.read_text() == text


def test_two_drills_do_not_share_a_file(tmp_path: Path) -> None:
    with (
        progress.owned(tmp_path / "run.json"),
        pytest.raises(DrillTrouble, match="another drill is running"),
        progress.owned(tmp_path / "run.json"),
    ):
        pass
    with progress.owned(tmp_path / "run.json"):
        pass


def test_a_plan_that_has_changed_is_no_plan_to_go_on_with() -> None:
    progress.check_parts(kept("a"), ["a", "b", "c"], PATH)
    with pytest.raises(DrillTrouble, match="other parts"):
        progress.check_parts(kept("a"), ["a", "b"], PATH)


def test_parts_add_up() -> None:
    one = Findings("x", kills=1, requests=10, records=9, interrupted=2, lost=1, seconds=3.0)
    one.figures = {"load": {"whole": 9, "cut": 1}, "slowest, s": 0.5, "latency": Latency(1.0, 9.0, 0.1, 4)}
    one.drained_per_s = 900.0
    one.problem("first")
    two = Findings("x", kills=2, requests=20, records=20, duplicated=1, seconds=4.5)
    two.figures = {"load": {"whole": 20}, "slowest, s": 0.25, "latency": Latency(1.0, 7.0, 0.2, 5)}
    two.problem("second")
    total = add_up([one, two])
    assert (total.kills, total.requests, total.records, total.interrupted) == (3, 30, 29, 2)
    assert (total.lost, total.duplicated, total.seconds, total.drained_per_s) == (1, 1, 7.5, 900.0)
    assert total.figures == {
        "load": {"whole": 29, "cut": 1},
        "slowest, s": "0.25 to 0.5",
        "latency": {"p50": 1.0, "p99": "7.0 to 9.0", "p99_spread": "0.1 to 0.2", "windows": 9},
        "parts": 2,
    }
    assert (total.problems, total.problem_count, total.result) == (["first", "second"], 2, "2 problems")


def test_one_part_stays_as_it_is() -> None:
    only = Findings("x", requests=3, figures={"pair": (1, 2)})
    assert add_up([only]) is only


def test_parts_that_were_not_tried_are_not_taken_for_good_ones() -> None:
    untried, tried = Findings("x", not_tried="no tmpfs"), Findings("x", requests=1)
    assert add_up([untried, untried]).result == "not tried"
    mixed = add_up([untried, tried])
    assert (mixed.result, mixed.figures["parts not tried"]) == ("ok", 1)


@given(st.lists(st.lists(st.integers(0, 10**9), min_size=1, max_size=4), min_size=2, max_size=5))
def test_whole_numbers_are_summed_wherever_they_are(rows: list[list[int]]) -> None:
    assert together([sum(row) for row in rows]) == sum(map(sum, rows))
    named = [{f"n{place}": value for place, value in enumerate(row)} for row in rows]
    assert sum(together(named).values()) == sum(map(sum, rows))
    if len({len(row) for row in rows}) == 1:
        assert together(rows) == [sum(column) for column in zip(*rows, strict=True)]


def test_words_are_kept_once_or_part_by_part() -> None:
    assert together(["HUP, TERM", "HUP, TERM"]) == "HUP, TERM"
    assert together(["no: too short a time", 1]) == ["no: too short a time", 1]
    assert together([1.5, 1.5]) == 1.5


class FakeUpstream:
    """Stands in for the simulator."""

    def __enter__(self) -> "FakeUpstream":
        return self

    def __exit__(self, *_: object) -> None: ...


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Scenarios that only say that they ran; `stops_at` is where somebody presses Ctrl-C."""
    what = SimpleNamespace(ran=[], stops_at=None, kills=[])

    def scenario(drill: Drill) -> Findings:
        amount = drill.level.worker_kills
        if len(what.ran) == what.stops_at:
            raise KeyboardInterrupt
        what.ran.append((drill.directory.name, amount))
        what.kills.append(drill.random.random())
        return Findings("worker-kills", kills=amount, requests=10 * amount)

    for name in SCENARIOS:
        monkeypatch.setitem(SCENARIOS, name, scenario)
    monkeypatch.setattr(cli, "Upstream", FakeUpstream)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    assert threading.current_thread() is threading.main_thread()
    yield what
    for number, handler in before.items():
        signal.signal(number, handler)


def drill(tmp_path: Path, *options: str) -> int:
    state = ("--level", "full", "--only", "worker-kills", "--state", str(tmp_path / "run.json"))
    return cli.main([*state, *options])


def test_a_run_that_was_stopped_goes_on_and_adds_up(
    runs: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs.stops_at = 3
    assert drill(tmp_path, "--seed", "7") == cli.EXIT_INTERRUPTED
    assert f"3 of 20 parts are kept in {tmp_path / 'run.json'}" in capsys.readouterr().out
    runs.stops_at = None
    assert drill(tmp_path, "--json", str(tmp_path / "found.json")) == 0
    assert [int(place) for place, _ in runs.ran] == list(range(1, 21)), "each part once"
    found = json.loads((tmp_path / "found.json").read_text())
    (row,) = found["scenarios"]
    assert (found["seed"], row["kills"], row["requests"], row["figures"]["parts"]) == (7, 1000, 10_000, 20)
    in_two = runs.kills
    runs.kills = []
    assert drill(tmp_path, "--fresh", "--seed", "7") == 0
    assert runs.kills == in_two, "the same choices as without a stop"


def test_a_run_that_is_over_is_told_again_without_running(runs: SimpleNamespace, tmp_path: Path) -> None:
    assert drill(tmp_path) == 0
    ran = list(runs.ran)
    assert drill(tmp_path, "--resume") == 0
    assert runs.ran == ran


def test_what_is_said_of_databases_is_heard_again_afterwards(runs: SimpleNamespace, tmp_path: Path) -> None:
    before = logging.getLogger("app.store.embedded_mongo.server").getEffectiveLevel()
    runs.stops_at = 1
    drill(tmp_path)
    assert logging.getLogger("app.store.embedded_mongo.server").getEffectiveLevel() == before


def test_another_seed_is_refused_while_a_run_is_kept(
    runs: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs.stops_at = 1
    assert drill(tmp_path, "--seed", "7") == cli.EXIT_INTERRUPTED
    runs.stops_at = None
    assert drill(tmp_path, "--seed", "8") == cli.EXIT_TROUBLE
    assert "seed 7, --only worker-kills, 1 of 20 parts done" in capsys.readouterr().err
    assert len(runs.ran) == 1
    assert drill(tmp_path, "--seed", "8", "--fresh") == 0
    assert len(runs.ran) == 1 + 20


def test_a_part_that_disagreed_before_the_stop_is_not_forgotten(
    runs: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = SCENARIOS["worker-kills"]

    def bad(stage: Drill) -> Findings:
        findings = good(stage)
        findings.expect(len(runs.ran) > 1, "a record is missing")
        return findings

    monkeypatch.setitem(SCENARIOS, "worker-kills", bad)
    runs.stops_at = 2
    assert drill(tmp_path) == cli.EXIT_INTERRUPTED
    runs.stops_at = None
    assert drill(tmp_path) == cli.EXIT_PROBLEM


def test_what_a_killed_run_left_behind_is_removed_when_it_goes_on(
    runs: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli.tempfile, "tempdir", str(tmp_path))
    runs.stops_at = 1
    drill(tmp_path)
    run = progress.read(tmp_path / "run.json")
    assert run is not None
    left, other = Path(run.directory), tmp_path / "weir-drill-of-another"
    assert left.parent == tmp_path
    assert not left.exists(), "this one was stopped, not killed"
    for place in (left, other):
        (place / "1").mkdir(parents=True)
    runs.stops_at = None
    drill(tmp_path)
    assert not left.exists()
    assert other.exists()


def test_the_shorter_levels_keep_nothing_unless_told(runs: SimpleNamespace, tmp_path: Path) -> None:
    arguments = cli._parser().parse_args
    assert cli._kept_in(arguments(["--level", "short"])) is None
    assert cli._kept_in(arguments([])) is None
    assert cli._kept_in(arguments(["--level", "full"])) == cli.ROOT / "var" / "drill-full.json"
    assert cli._kept_in(arguments(["--level", "short", "--fresh"])) == cli.ROOT / "var" / "drill-short.json"
    assert cli._kept_in(arguments(["--state", str(tmp_path / "x")])) == tmp_path / "x"
