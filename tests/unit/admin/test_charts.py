"""Charts say the same to the browser, to its table, and in words."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from app.admin.charts import METRICS, colours, endings_chart, home_charts, metric_chart
from app.records.breakdown import ENDINGS, Bar
from app.statistics.figures import Totals
from app.statistics.periods import Period
from app.statistics.timeseries import DAY, HOUR, MONTH, Bucket, Series

START = datetime(2026, 11, 22, 17, 0, tzinfo=UTC)
NOW = START + timedelta(hours=2, minutes=30)
PERIOD = Period.of("24h", NOW, UTC)


def totals(requests, *, cost=0, rejected=0, failed=0, latency=None):
    return Totals(
        requests=requests,
        success=requests - rejected - failed,
        rejected=rejected,
        cost_nano_usd=cost,
        latency=dict(latency or {}),
    )


def series(*buckets, keys=(), size=HOUR, step=timedelta(hours=1)):
    made = [Bucket(START + n * step, total, parts) for n, (total, parts) in enumerate(buckets)]
    return Series(size, list(keys), made)


def busy(name="gpt-5"):
    part = totals(4, cost=615_000, rejected=1, failed=1, latency={"b10": 2})
    whole = totals(5, cost=700_000, rejected=1, failed=1, latency={"b10": 3})
    return series((whole, {name: part}), (totals(0), {}), (whole, {name: part}), keys=[name])


def test_an_empty_period_has_nothing_to_draw():
    for chart in home_charts(series((totals(0), {}), (totals(0), {})), PERIOD, UTC):
        assert chart.is_empty


def test_requests_are_those_that_ended_well_failed_and_were_refused():
    requests, cost, latency = home_charts(busy(), PERIOD, UTC)
    assert requests.summary == "10 in all, 2 failed"
    assert {line.name: line.values for line in requests.lines} == {
        "ok": [3, 0, 3], "failed": [1, 0, 1], "refused": [1, 0, 1],
    }  # fmt: skip
    assert [line.name for line in cost.lines] == ["gpt-5", "others"]
    assert [sum(line.values) for line in cost.lines] == [1_230_000, 170_000]
    assert cost.summary == "$0.0014 in all"
    assert [line.name for line in latency.lines] == ["p50", "p95", "p99"]
    assert not latency.adds_up


def test_the_browser_is_told_times_names_and_where_to_lead():
    chart = home_charts(busy(), PERIOD, UTC)[0]
    told = chart.to_json("/here?period=24h", "/requests")
    assert told["starts"] == [int((START + timedelta(hours=n)).timestamp()) for n in range(3)]
    assert told["end"] == told["starts"][-1] + 3600
    assert told["running"] is True
    assert told["ticks"] == ["17:00", "18:00", "19:00"]
    assert (told["here"], told["requests"]) == ("/here?period=24h", "/requests")
    later = Period.of("24h", NOW + timedelta(hours=1), UTC)
    assert home_charts(busy(), later, UTC)[0].running is False


def test_the_table_has_the_same_newest_first():
    chart = home_charts(busy(), PERIOD, ZoneInfo("Asia/Ho_Chi_Minh"))[1]
    newest, before, _ = chart.rows("/requests?user=a%26b&period=24h")
    asked = "/requests?user=a%26b&from=2026-11-22T{}:00:00.000Z&to=2026-11-22T{}:00:00.000Z"
    assert newest == ("2026-11-23 02:00 +07", asked.format(19, 20), ["$0.000615", "$0.000085"])
    assert before == ("2026-11-23 01:00 +07", asked.format(18, 19), ["$0.00", "$0.00"])
    assert next(chart.rows("/requests"))[1].startswith("/requests?from=")


@pytest.mark.parametrize(
    ("size", "step", "label", "tick"),
    [(HOUR, timedelta(hours=1), "2026-11-22 17:00 UTC", "17:00"),
     (HOUR, timedelta(hours=20), "2026-11-22 17:00 UTC", "11-22 17:00"),
     (DAY, timedelta(days=1), "2026-11-22", "11-22"),
     (MONTH, timedelta(days=30), "November 2026", "2026-11")],
)  # fmt: skip
def test_buckets_are_called_by_their_size(size, step, label, tick):
    found = series(*[(totals(1), {})] * 4, size=size, step=step)
    chart = metric_chart(METRICS["requests"], found, PERIOD, UTC)
    assert chart.labels[0] == label
    assert chart.ticks[0] == tick
    assert [line.name for line in chart.lines] == ["all"]


@pytest.mark.parametrize(
    ("step", "label", "tick"),
    [(timedelta(seconds=10), "2026-11-22 17:00:00 UTC", "17:00:00"),
     (timedelta(minutes=5), "2026-11-22 17:00 UTC", "17:00"),
     (timedelta(hours=12), "2026-11-22 17:00 UTC", "11-22 17:00"),
     (timedelta(days=1), "2026-11-22", "11-22")],
)  # fmt: skip
def test_how_requests_ended_is_drawn_in_bars_of_any_length(step, label, tick):
    counts = [
        {"ok": 3, "refused": 0, "left": 1, "failed": 2},
        dict.fromkeys(ENDINGS, 0),
        dict.fromkeys(ENDINGS, 1),
    ]
    bars = [Bar(START + n * step, START + (n + 1) * step, count) for n, count in enumerate(counts)]
    chart = endings_chart(bars, START + 3 * step, UTC)
    assert (chart.labels[0], chart.ticks[0]) == (label, tick)
    assert (chart.end, chart.running) == (START + 3 * step, False)
    assert endings_chart(bars, START + 2 * step, UTC).running
    assert {line.name: (line.colour, line.values) for line in chart.lines} == {
        "ok": ("ending-ok", [3, 0, 1]), "refused": ("ending-refused", [0, 0, 1]),
        "client left": ("ending-left", [1, 0, 1]), "failed": ("ending-failed", [2, 0, 1]),
    }  # fmt: skip


def test_an_outcome_has_one_colour_on_every_page():
    lines = {line.name: line.colour for line in home_charts(busy(), PERIOD, UTC)[0].lines}
    assert lines == {name: f"ending-{name}" for name in ("ok", "failed", "refused")}


def test_what_does_not_add_up_has_no_others():
    chart = metric_chart(METRICS["latency"], busy(), PERIOD, UTC)
    assert [line.name for line in chart.lines] == ["gpt-5"]
    assert chart.lines[0].values[1] is None


def test_a_name_has_the_same_colour_everywhere():
    alone = colours(["gpt-5"])
    for others in (["claude"], ["claude", "gemini", "o3"], []):
        assert colours(["gpt-5", *others])["gpt-5"] == alone["gpt-5"]
    assert colours(["failed", "ok"])["failed"] == colours(["failed"])["failed"] != colours(["ok"])["ok"]


def test_no_two_of_a_chart_share_a_colour_while_there_are_some_left():
    names = [f"model-{number}" for number in range(10)]
    assert len(set(colours(names).values())) == 10
    assert len(colours([*names, "one-more"])) == 11
