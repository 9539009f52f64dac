"""Charts hold nothing a page must not hold, and say in words what they show."""

import re
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree
from zoneinfo import ZoneInfo

import pytest

from app.admin.charts import draw
from app.core.stats import Totals
from app.core.timeseries import DAY, HOUR, MONTH, Bucket, Series

START = datetime(2026, 11, 22, 17, 0, tzinfo=UTC)
SVG = "{http://www.w3.org/2000/svg}"


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


def test_an_empty_period_has_no_pictures():
    for chart in draw(series((totals(0), {}), (totals(0), {})), UTC):
        assert chart.svg is None


def test_bars_and_dots_tell_their_time_value_and_series():
    charts = {chart.name: chart for chart in draw(busy(), UTC)}
    titles = [
        title.text
        for title in ElementTree.fromstring(charts["cost"].svg).iter()
        if title.tag.endswith("title")
    ]
    assert "2026-11-22 17:00 UTC: $0.000615 – gpt-5" in titles
    assert "2026-11-22 17:00 UTC: $0.000085 – others" in titles
    assert charts["requests"].summary == "10 in all"
    assert charts["errors"].summary == "4 requests that did not end well"
    assert "p95" in charts["latency"].svg


def test_styles_scripts_ids_and_comments_are_taken_out():
    for chart in draw(busy(), UTC):
        assert not re.search(r"<style|<script|style=|\bid=|<!--|on\w+=|href", str(chart.svg)), chart.name


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a&b", "]]>"]
)
def test_names_are_text(name):
    for chart in draw(busy(name), UTC):
        root = ElementTree.fromstring(str(chart.svg))
        tags = {element.tag.removeprefix(SVG) for element in root.iter()}
        assert tags <= {"svg", "defs", "g", "rect", "path", "text", "title", "circle"}


def test_every_bucket_has_a_label_of_its_own_also_when_clocks_are_set_back():
    zone = ZoneInfo("Europe/Berlin")
    start = datetime(2026, 10, 24, 22, 0, tzinfo=UTC)
    made = Series(HOUR, [], [Bucket(start + timedelta(hours=n), totals(n + 1)) for n in range(6)])
    requests = draw(made, zone)[0]
    titles = re.findall(r"<title>(2026-10-25 [^:]+:\d\d \w+): ", str(requests.svg))
    assert len(titles) == len(set(titles)) == 6


@pytest.mark.parametrize(
    ("size", "step", "label"),
    [
        (HOUR, timedelta(hours=1), "17:00"),
        (DAY, timedelta(days=1), "11-22"),
        (MONTH, timedelta(days=31), "2026-11"),
    ],
)
def test_the_axis_says_as_much_as_it_needs_to(size, step, label):
    whole = (totals(1), {})
    assert f">{label}</text>" in str(draw(series(whole, whole, size=size, step=step), UTC)[0].svg)
