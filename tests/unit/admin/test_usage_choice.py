"""What the page Usage makes of its address and of the sums, without a store."""

from datetime import UTC, datetime, timedelta

from app.admin.usage_pages import (
    Answer,
    Choice,
    chart_csv,
    chart_of,
    rows_of,
    table_csv,
    total_of,
)
from app.statistics.figures import Totals
from app.statistics.periods import Period
from app.statistics.timeseries import HOUR, Bucket, Series
from app.statistics.usage import Grouping, UsagePage

NOW = datetime(2026, 11, 23, 12, 30, tzinfo=UTC)
PERIOD = Period.of("24h", NOW, UTC)
HASHED = "wk_" + "a" * 40


def used(cost: int, requests: int = 1) -> Totals:
    return Totals(requests=requests, success=requests, cost_nano_usd=cost)


def answer(by: str, *keys: str | None, before: dict | None = None) -> Answer:
    """Each key has used three times as much as the one after it, all of it in the last of two hours."""
    costs = [3**place for place in reversed(range(len(keys)))]
    rows = [((key,), used(cost)) for key, cost in zip(keys, costs, strict=True)]
    total = used(sum(costs), len(keys))
    named = [key for key in keys if key is not None]
    parts = {key: used(cost) for key, cost in zip(keys, costs, strict=True) if key is not None}
    start = NOW.replace(minute=0)
    buckets = [Bucket(start - timedelta(hours=1)), Bucket(start, total, parts)]
    page = UsagePage(Grouping((by,)), rows, 0, Totals(), total, has_more=False)
    whole = None if before is None else used(sum(sums.cost_nano_usd for sums in before.values()))
    return Answer(Series(HOUR, named, buckets), page, before, whole)


def test_what_is_not_known_counts_as_not_given():
    choice = Choice.parse({"metric": "x", "by": "y", "then": "z", "bucket": "year"})
    assert choice == Choice.parse({})
    assert (choice.metric.name, choice.by, choice.then) == ("cost", "model", None)
    assert not any(choice.parameters[name] for name in ("then", "bucket", "compare"))


def test_a_choice_is_in_the_address_as_it_was_read():
    given = {
        "metric": "tokens",
        "by": "user",
        "then": "model",
        "bucket": "day",
        "compare": "yes",
    }
    assert Choice.parse(given).parameters == given
    assert Choice.parse(given).grouping == Grouping(("user", "model"))
    assert Choice.parse({"by": "user", "then": "user"}).then is None


def test_what_is_counted_is_restricted_by_what_it_says():
    filters = {"user": "ann", "factoryKey": "env-1", "session": "s1", "outcome": "ok", "q": "x"}
    sums, records = Choice.parse({"by": "user"}), Choice.parse({"by": "user", "then": "tag"})
    assert sums.selected(filters) == {"userId": "ann", "factoryKeyId": "env-1"}
    assert sums.left_out(filters) == ["session", "outcome", "q"]
    assert records.selected(filters) == {"userId": "ann", "factoryKeyId": "env-1", "sessionId": "s1"}
    assert records.left_out(filters) == ["outcome", "q"]


def test_lines_have_their_share_and_their_trend():
    rows = rows_of(Choice.parse({"by": "user"}), answer("user", "ann", "bob"))
    assert [row.asks for row in rows] == [{"user": "ann"}, {"user": "bob"}]
    assert [row.share for row in rows] == [75.0, 25.0]
    assert rows[0].trend == [0, 3]
    assert rows[0].before is rows[0].change is None


def test_a_change_is_told_where_there_was_something_before():
    before = {("ann",): used(6)}
    choice = Choice.parse({"by": "user", "compare": "yes"})
    ann, bob = rows_of(choice, answer("user", "ann", "bob", before=before))
    assert (ann.change, bob.change) == (-50.0, None)
    assert round(total_of(choice, answer("user", "ann", "bob", before=before)).change or 0, 2) == -33.33
    latency = Choice.parse({"by": "user", "compare": "yes", "metric": "latency"})
    assert rows_of(latency, answer("user", "ann", before=before))[0].change is None


def test_the_files_have_what_is_shown():
    choice, found = Choice.parse({"by": "model"}), answer("model", "gpt-5", None)
    heads, first, second = table_csv(choice, rows_of(choice, found))
    assert heads.startswith("model,costNanoUsd,costSharePercent,requests")
    assert first.startswith("gpt-5,3,75.0,1,0,0")
    assert second.startswith(",1,25.0,1,0,0")
    assert list(chart_csv(choice, found, PERIOD, UTC)) == [
        "start,gpt-5,others", "2026-11-23T11:00:00+00:00,0,0", "2026-11-23T12:00:00+00:00,3,1",
    ]  # fmt: skip
    compared = answer("model", "gpt-5", before={("gpt-5",): used(1)})
    assert next(table_csv(choice, rows_of(choice, compared))).endswith("costBefore,changePercent")


def test_of_client_keys_a_chart_names_what_may_be_seen():
    legacy = "sk-troll-ABCDEFGHIJKLMNOPQRSTUVWX"
    chart = chart_of(Choice.parse({"by": "key"}), answer("key", legacy, HASHED), PERIOD, UTC)
    assert [line.name for line in chart.lines] == ["sk-troll...VWX", HASHED]
