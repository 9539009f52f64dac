"""Everything the fuzzers found worth keeping is played again, on any Python and without atheris."""

import random
from collections import Counter
from pathlib import Path

import pytest

import tests.fuzz.__main__ as fuzz
from tests.fuzz.corpus_file import MAX_BYTES, keep, kept
from tests.fuzz.target import Material, cut
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_every_kept_input_and_every_seed_passes(name: str) -> None:
    target = TARGETS[name]
    inputs = kept(name)
    assert inputs
    for data in (*inputs, *target.seeds()):
        assert len(data) <= target.max_bytes + 4
        target.check(data)


def test_a_corpus_is_kept_as_it_is_and_the_shortest_of_what_is_too_much(tmp_path: Path) -> None:
    inputs = {bytes(range(256)), b"", b"\n", "é\u2028".encode()}
    assert keep("some", inputs, tmp_path) == 4
    assert set(kept("some", tmp_path)) == inputs

    many = {random.Random(number).randbytes(number) for number in range(1000)}
    count = keep("many", many, tmp_path)
    assert 0 < count < 1000
    assert (tmp_path / "many.jsonl").stat().st_size <= MAX_BYTES
    assert set(kept("many", tmp_path)) == set(sorted(many, key=len)[:count])


def test_material_is_never_short_and_pieces_are_the_whole() -> None:
    material = Material(b"\x05\x01rest")
    assert (material.one_of("abc"), material.byte(), material.rest()) == ("c", 1, b"rest")
    assert Material(b"").one_of("abc") == "a"
    data = random.Random(1).randbytes(300)
    for seed in range(256):
        pieces = cut(data, seed)
        assert b"".join(pieces) == data
        assert len(pieces) > 1
        assert all(pieces)


def test_each_target_gets_its_minutes_counting_those_of_earlier_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ran: Counter[str] = Counter()

    def turn(_: object, name: str, seconds: int, figures: fuzz.Figures) -> None:
        ran[name] += seconds
        figures.seconds += seconds

    monkeypatch.setattr(fuzz, "turn", turn)
    workshop = fuzz.Workshop(tmp_path)
    figures = workshop.figures()
    figures["sse"].seconds, figures["usage"].seconds = 170.0, 900.0
    workshop.note(figures)
    command = ["fuzz", "--each", "5", "--work", str(tmp_path), "sse", "usage", "answer"]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit, match="0"):
        fuzz.main()
    assert ran == {"sse": 130, "answer": 300}
    assert workshop.figures()["answer"].seconds == 300
