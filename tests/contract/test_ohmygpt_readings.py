"""What one worker of all reads from the upstream, and all of them know."""

from datetime import UTC, datetime, timedelta

from app.ohmygpt.asking import NotTold
from app.ohmygpt.live_catalogue import READ_EVERY, LiveCatalogue, Readings
from app.pricing.model_table import ModelTable

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def test_one_of_all_reads_and_not_before_it_is_due(database) -> None:
    readings = Readings(database)
    assert readings.claim("x", NOW, READ_EVERY)
    assert not Readings(database).claim("x", NOW, READ_EVERY)
    readings.put("x", {"a": 1}, NOW)
    assert not readings.claim("x", NOW + READ_EVERY - MINUTE, READ_EVERY)
    assert readings.claim("x", NOW + READ_EVERY, READ_EVERY)
    # Whoever claimed it has died: the next one reads.
    assert readings.claim("x", NOW + 2 * READ_EVERY, READ_EVERY)
    assert readings.get("x")["a"] == 1


def offered(table: ModelTable) -> list[str]:
    return [model.id for model in table.beside()]


class Asked:
    def __init__(self, *answers: tuple[str, ...] | Exception) -> None:
        self.answers = list(answers)

    def __call__(self) -> tuple[str, ...]:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_all_workers_know_what_is_offered_and_keep_it_when_it_cannot_be_read(database) -> None:
    now = [NOW]
    first, second = ModelTable(()), ModelTable(())
    asked = Asked(("a/b:c.d",), NotTold("no answer"), ("x",))
    one = LiveCatalogue(Readings(database), asked, first, lambda: now[0])
    other = LiveCatalogue(Readings(database), asked, second, lambda: now[0])
    assert first.unpriced("a/b:c.d") is None
    one.look()
    other.look()
    for table in (first, second):
        model = table.unpriced("a/b:c.d")
        assert model is not None
        assert (model.upstream_id, model.has_price("input")) == ("a/b:c.d", False)
        assert table.unpriced("a/b:c") is None
    now[0] += READ_EVERY
    one.look()
    assert offered(first) == ["a/b:c.d"]
    assert Readings(database).get("catalogue")["problem"] == "no answer"
    other.look()
    one.look()
    assert len(asked.answers) == 1  # not yet: it was tried a moment ago
    now[0] += MINUTE
    other.look()
    assert len(asked.answers) == 1
    one.look()
    other.look()
    assert offered(first) == offered(second) == ["x"]
    assert "problem" not in Readings(database).get("catalogue")
