"""The benchmark's own parts: load client and upstream agree on every chunk, and reports say what was lost."""

from pathlib import Path

import pytest

from bench import report
from bench.native import Aim, LoadUpstream, Programs, Shape, compile_programs, run_load
from bench.run import Book, Results

ANY_CORE = None


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    return compile_programs(tmp_path_factory.mktemp("programs"))


@pytest.mark.parametrize(
    ("shape", "chunks"),
    [
        (Shape("b-plain", 4, 0.2, warmup_s=0.0), 0),
        (Shape("b-stream-50-0", 4, 0.2, warmup_s=0.0, chunks=50), 50),
        (Shape("b-stream-5-10", 20, 0.3, warmup_s=0.0, ramp_s=0.05, chunks=5), 5),
    ],
    ids=["plain", "burst", "paced"],
)
def test_everything_sent_is_answered_and_counted(
    programs: Programs, tmp_path: Path, shape: Shape, chunks: int
) -> None:
    with LoadUpstream(programs, tmp_path, 0) as upstream:
        figures = run_load(programs, Aim(upstream.port), shape, ANY_CORE).figures
    assert figures["answered"] == figures["sent"] > 0
    assert not any(figures[name] for name in ("failed", "lost", "reordered", "unfinished"))
    assert bool(figures["chunks"]) is bool(chunks)


def test_a_chunk_that_does_not_come_is_counted(programs: Programs, tmp_path: Path) -> None:
    """The client is told to expect more than the upstream sends."""
    shape = Shape("b-stream-3-0", 1, 0.1, warmup_s=0.0, chunks=4)
    with LoadUpstream(programs, tmp_path, 0) as upstream:
        figures = run_load(programs, Aim(upstream.port), shape, ANY_CORE).figures
    assert figures["lost"] == figures["answered"]


def results(weir: float, *, lost: int = 0) -> Results:
    return Results(
        figures={
            "plain": {
                "litellm": {"requests_per_s": 100.0},
                "weir": {"requests_per_s": weir, "failed": 0.0},
            }
        },
        books={"weir": Book(sent=10, records=10 - lost)},
    )


def test_ratios_are_of_this_proxy_to_the_others() -> None:
    document = report.document(results(1500.0), "short")
    assert document["ratios"] == {"plain: weir/litellm": 15.0}
    assert report.problems(document) == []


def test_a_lost_record_is_a_problem() -> None:
    assert report.problems(report.document(results(1.0, lost=2), "short")) == [
        "weir: 2 of 10 requests left no record"
    ]


def test_parts_of_a_run_make_one() -> None:
    earlier, later = report.document(results(1000.0, lost=1), "short"), report.document(results(2.0), "short")
    later["figures"] = {"burst": {"weir": {"chunks_per_s": 5.0}, "nginx": {"chunks_per_s": 10.0}}}
    both = report.merged(earlier, later)
    assert both["ratios"] == {"plain: weir/litellm": 10.0, "burst: weir/nginx": 0.5}
    assert both["books"]["weir"] == {"sent": 20, "records": 19, "lost": 1}
