"""A record in words: its attempts in time, its cost by kind of token, its reason."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.admin.formats import number
from app.admin.reasons import ending, reason_of
from app.admin.record_view import booked_nano, cost_view, position, timeline
from app.pricing.model_table import ModelTable
from app.records.records import Outcome

TABLE = ModelTable.from_toml(
    '[[models]]\nid = "m"\ninput = 1.25\noutput = 10\n'
    'cache_write = 2\ncache_write_1h = 3\ncache_hit = "0.125"\n'
)
FOREIGN = st.one_of(st.none(), st.booleans(), st.text(max_size=5), st.floats(), st.integers())


def record(**members):
    return {"model": "m", "latencyMs": 1000, "ttftMs": 700, "attempts": [], **members}


def test_attempts_follow_each_other_and_the_last_lasts_as_long_as_its_answer():
    spans = timeline(
        record(
            attempts=[
                {"factoryKeyId": "a", "statusCode": 500, "latencyMs": 200, "error": "server_error"},
                {"factoryKeyId": "b", "statusCode": 200, "latencyMs": 100},
            ]
        )
    )
    assert [(span.label, span.kind, span.x, span.width) for span in spans] == [
        ("a", "bad", 0, 200),
        ("b", "good", 200, 800),
    ]
    assert position(record(), 700) == 700


@given(st.lists(st.fixed_dictionaries({"latencyMs": FOREIGN, "factoryKeyId": FOREIGN})), FOREIGN)
def test_a_bar_is_never_outside_the_picture(attempts, latency):
    for span in timeline({"attempts": attempts, "latencyMs": latency}):
        assert 0 <= span.x < span.x + span.width <= 1000


def test_a_cost_is_told_by_kind_and_adds_up_to_what_was_booked():
    counts = {"inputTokens": 200, "cacheHitTokens": 1000, "cacheWriteTokens": 30, "cacheWrite1hTokens": 10,
              "outputTokens": 24}  # fmt: skip
    view = cost_view(record(**counts, costNanoUsd=685_000), TABLE.resolve)
    assert [(line.kind, line.quantity, line.usd) for line in view.lines] == [
        ("fresh input", 200, Decimal("0.00025")),
        ("cache hits", 1000, Decimal("0.000125")),
        ("cache writes, 5 minutes", 20, Decimal("0.00004")),
        ("cache writes, 1 hour", 10, Decimal("0.00003")),
        ("output", 24, Decimal("0.00024")),
    ]
    assert sum(line.usd for line in view.lines) == Decimal("0.000685")
    assert view.agrees is True
    assert cost_view(record(**counts, costNanoUsd=1), TABLE.resolve).agrees is False
    assert cost_view(record(**counts, model="gone"), TABLE.resolve).agrees is None


def test_a_record_that_tells_what_was_charged_is_shown_as_that():
    items = [
        {"unit": "input", "quantity": 200, "nanoUsd": 250_000},
        {"unit": "web_search", "quantity": 2, "nanoUsd": 20_000_000, "model": "other"},
        {"unit": "second", "quantity": 12.5, "nanoUsd": 1_250_000},
    ]
    view = cost_view(record(inputTokens=200, costItems=items, costNanoUsd=21_500_000), TABLE.resolve)
    assert [(line.kind, line.quantity, line.usd) for line in view.lines] == [
        ("input", 200, Decimal("0.00025")),
        ("web search (other)", 2, Decimal("0.02")),
        ("second", 12.5, Decimal("0.00125")),
    ]
    assert view.is_charged
    assert (number(12.5), number(2), number(1234)) == ("12.5", "2", "1,234")


def test_earlier_software_booked_in_usd():
    assert booked_nano({"creditsCost": 0.000615}) == 615_000
    assert booked_nano({"costNanoUsd": 5, "creditsCost": 1.0}) == 5


FIELDS = [
    "inputTokens",
    "cacheWriteTokens",
    "cacheWrite1hTokens",
    "outputTokens",
    "costNanoUsd",
    "creditsCost",
]


ITEM = st.dictionaries(st.sampled_from(["unit", "quantity", "nanoUsd", "model"]), FOREIGN)


@given(
    st.dictionaries(
        st.sampled_from([*FIELDS, "model", "costItems"]), FOREIGN | st.lists(ITEM | FOREIGN, max_size=3)
    )
)
def test_whatever_a_record_holds_its_cost_can_be_shown(members):
    view = cost_view(members, TABLE.resolve)
    assert isinstance(view.booked_nano, int)


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_has_a_name_in_words(outcome):
    assert "_" not in ending(str(outcome))
    assert (ending("of_another_version"), ending(None)) == ("of_another_version", "unknown")


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_has_a_sentence(outcome):
    reason = reason_of({"outcome": outcome})
    assert reason.what.endswith(".")
    assert reason.what != reason_of({"outcome": "made up"}).what


def test_a_refusal_is_explained_by_its_error():
    assert "not in the model table" in reason_of({"outcome": "rejected", "errorType": "model_not_found"}).what
    assert "refused the request" in reason_of({"outcome": "rejected", "errorType": "made_up"}).what
    busy = {"outcome": "rejected", "errorType": "upstream_keys_busy"}
    assert "cooling down" in reason_of(busy).what
    assert "earlier software" in reason_of({}).what
