"""What another table would have charged: exact from records, as good as the hourly sums before that."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.management.errors import Unusable
from app.management.price_history import PriceHistory
from app.management.views.price_history import preview_view
from app.persistence.booking import Booking
from app.pricing.charge import charge
from app.pricing.model_table import ModelTable
from app.pricing.rate_card import Terms
from app.records.records import ExchangeRecord, Outcome, SequencedRecord, UsageSource
from app.statistics.price_preview import Preview
from app.wires.usage import Usage

TEXT = """
[[models]]
id = "small"
input = 1
output = 10
tiers = [{ above_input_tokens = 1000, input = 2, output = 20 }]
[[models]]
id = "large"
input = 5
output = 50
"""
TABLE = ModelTable.from_toml(TEXT)
DEARER = TEXT.replace("output = 10\n", "output = 11\n")
CHANGING = TEXT.replace("output = 50", "output = 50\nchanges = [{ from = 2026-11-30, output = 60 }]")
DAY = datetime(2026, 11, 29, tzinfo=UTC)
HOUR = timedelta(hours=1)


class Shop:
    """Requests that were charged by `TABLE`, and booked."""

    def __init__(self, database) -> None:
        self.db = database
        self.booking = Booking(database, "w1")
        self.documents: list[dict[str, Any]] = []

    def charge(self, user: str, model: str, usage: Usage, hours: float) -> None:
        began = DAY + timedelta(hours=hours)
        priced = TABLE.named(model)
        assert priced is not None
        charged = charge(TABLE, priced, usage, terms=Terms(began))
        number = len(self.documents) + 1
        record = ExchangeRecord(
            request_id=f"r{number}",
            user_id=user,
            user_key_id="k",
            created_at=began,
            api_format="openai",
            outcome=Outcome.OK,
            status_code=200,
            model=model,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            usage_source=UsageSource.UPSTREAM,
            cost_items=charged.items,
            cost_nano_usd=sum(charged.costs),
            price_version=TABLE.version,
        )
        self.documents.append(record.to_document())
        self.booking.apply([SequencedRecord(number, dict(record.to_document()))])

    def preview(self, text: str, hours: float = 48, **options: Any) -> Preview:
        return PriceHistory(self.db, lambda: TABLE).preview(text, DAY, DAY + hours * HOUR, **options)

    def forget_records(self, before: float) -> None:
        self.db.request_logs.delete_many({"createdAt": {"$lt": DAY + before * HOUR}})


@pytest.fixture
def shop(database) -> Shop:
    found = Shop(database)
    found.charge("ann", "small", Usage(input_tokens=100, output_tokens=10), 1)
    found.charge("ann", "small", Usage(input_tokens=5000, output_tokens=10), 2)  # beyond the limit
    found.charge("bob", "large", Usage(input_tokens=100, output_tokens=10), 3)
    found.charge("bob", "large", Usage(input_tokens=100, output_tokens=10), 30)
    return found


def figures(preview: Preview) -> dict[str, tuple[int, int]]:
    rows = {**preview.models, **preview.users}
    return {name: (row.requests, row.difference_nano) for name, row in rows.items()}


def sources(preview: Preview) -> list[tuple[str, float, float]]:
    return [(part.source, (part.start - DAY) / HOUR, (part.end - DAY) / HOUR) for part in preview.parts]


def test_from_records_all_that_decides_a_price_counts(shop: Shop) -> None:
    told: list[float] = []
    found = shop.preview(DEARER, progress=told.append)
    # The second request was charged beyond its limit, where the price of output stays what it was.
    assert figures(found) == {"ann": (2, 10_000), "small": (2, 10_000), "bob": (2, 0), "large": (2, 0)}
    assert sources(found) == [("records", 0, 48)]
    [part] = found.parts
    assert part.booked_nano == part.whole.old_nano == sum(record["costNanoUsd"] for record in shop.documents)
    assert told[0] < 1


def test_prices_change_for_what_began_then(shop: Shop) -> None:
    expected = {"ann": (2, 0), "small": (2, 0), "bob": (2, 100_000), "large": (2, 100_000)}
    assert figures(shop.preview(CHANGING)) == expected
    shop.forget_records(48)
    from_sums = shop.preview(CHANGING)
    assert figures(from_sums) == expected
    assert sources(from_sums) == [("sums", 0, 48)]


def test_before_the_first_whole_hour_of_records_the_sums_are_compared(shop: Shop) -> None:
    shop.forget_records(2.5)
    found = shop.preview(DEARER)
    # Sums do not say that one request was larger: it is taken for a usual one.
    assert figures(found) == {"ann": (2, 20_000), "small": (2, 20_000), "bob": (2, 0), "large": (2, 0)}
    assert sources(found) == [("sums", 0, 4), ("records", 4, 48)]
    shown = preview_view(found, most=1)
    assert [part["exactness"].split(":")[0] for part in shown["parts"]] == ["Approximate", "Exact"]
    assert [row["name"] for row in shown["models"]] == ["small"]
    assert shown["otherModels"]["oldNanoUsd"] == found.models["large"].old_nano
    assert shown["total"]["differenceNanoUsd"] == 20_000
    # The same table makes no difference, however little is known.
    assert preview_view(shop.preview(TEXT))["total"]["differenceNanoUsd"] == 0


def test_records_that_are_missing_among_others_are_told(shop: Shop) -> None:
    shop.db.request_logs.delete_one({"_id": "r3"})
    shown = preview_view(shop.preview(DEARER))
    assert "the hourly sums say another cost" in shown["parts"][0]["exactness"]


GROUPED = TEXT + '[groups.friends]\nprice_factor = "0.5"\n'


@pytest.mark.parametrize("has_records", [True, False], ids=["records", "sums"])
def test_a_new_factor_of_a_group_counts_for_who_is_in_it_now(shop: Shop, has_records: bool) -> None:
    shop.db.usersNew.insert_many(
        [{"_id": "ann", "group": "friends"}, {"_id": "bob", "group": "friends", "priceFactor": "0.9"}]
    )
    if not has_records:
        shop.forget_records(48)
    was = shop.preview(TEXT).users
    found = shop.preview(GROUPED)
    assert {part.source for part in found.parts} == {"records" if has_records else "sums"}
    assert found.users["ann"].old_nano == was["ann"].old_nano
    assert found.users["ann"].difference_nano == -was["ann"].old_nano // 2
    assert found.users["bob"].difference_nano == 0, "a factor of one's own goes before the group's"
    # Where both tables say the same of the group, it is the factor of the record that counts.
    same = PriceHistory(shop.db, lambda: ModelTable.from_toml(GROUPED)).preview(GROUPED, DAY, DAY + 48 * HOUR)
    assert same.whole.difference_nano == 0


def test_what_is_booked_while_it_is_read_is_no_difference(shop: Shop) -> None:
    read: list[float] = []

    def progress(done: float) -> None:
        if not read:  # beside the reading of the records: some of this is read, some is not
            for hours in (2.5, 40):
                shop.charge("eve", "small", Usage(input_tokens=1, output_tokens=1), hours)
        read.append(done)

    shown = preview_view(shop.preview(TEXT, progress=progress))
    assert read
    assert "another cost" not in shown["parts"][0]["exactness"]


def test_sums_that_take_too_long_are_an_error(shop: Shop) -> None:
    shop.forget_records(48)
    looks = iter([False, True])
    with pytest.raises(Unusable, match="later start"):
        shop.preview(DEARER, hours=24 * 60, is_over=lambda: next(looks))
    assert shop.preview(DEARER, hours=24 * 60).whole.requests == 4


def test_when_time_is_up_the_rest_comes_from_the_sums(shop: Shop) -> None:
    assert sources(shop.preview(DEARER, is_late=lambda: True)) == [("sums", 0, 48)]
    for number in range(250):
        shop.charge("eve", "small", Usage(input_tokens=number, output_tokens=1), 5 + number / 50)
    looks = iter((False, True))
    found = shop.preview(DEARER, is_late=lambda: next(looks))
    # The second look is at the 200th record: its hour is not whole yet.
    assert sources(found) == [("records", 0, 8), ("sums", 8, 48)]
    assert found.whole.requests == 254
    assert figures(found)["eve"] == (250, 250 * 1000)


def test_a_model_that_the_other_table_lacks_is_named(shop: Shop) -> None:
    without = ModelTable.from_toml(TEXT.replace('"large"', '"vast"')).text
    found = shop.preview(without)
    assert found.missing == {"large"}
    assert found.models["large"].new_nano == 0
    shop.forget_records(48)
    assert shop.preview(without).missing == {"large"}


def test_what_is_no_table_is_refused_with_its_line(shop: Shop) -> None:
    with pytest.raises(Unusable, match=r"line 3"):
        shop.preview('[[models]]\nid = "x"\ninput = "much"\n')


def test_an_empty_database_has_nothing_to_compare(database) -> None:
    found = PriceHistory(database, lambda: TABLE).preview(TEXT, DAY, DAY + HOUR)
    assert (figures(found), found.whole.requests) == ({}, 0)
