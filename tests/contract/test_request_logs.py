from datetime import UTC, datetime, timedelta
from itertools import chain

import pytest
from booking_world import NOON, closed_database, record, sequenced
from bson import ObjectId

from app.common.cursor import PageCursor
from app.common.errors import StoreUnavailable
from app.records import request_logs
from app.records.log_filter import LogFilter
from app.records.records import Attribution, Outcome
from app.records.request_logs import RequestLogStore, query_of
from app.store.connection import ensure_indexes

OLD_KEY = "sk-troll-ABCDEFGHIJKLMNOPQRSTUVWX"


@pytest.fixture
def store(database):
    return RequestLogStore(database)


def ids(documents):
    return [document["_id"] for document in documents]


def pages(store, wanted=LogFilter(), limit=3):  # noqa: B008
    found, cursor = store.find(wanted, limit)
    yield ids(found)
    while cursor is not None:
        found, cursor = store.find(wanted, limit, PageCursor.decode(cursor))
        yield ids(found)


def insert(database, *records):
    database["request_logs"].insert_many([item.to_document() for item in records])


def test_pages_go_from_the_newest_to_the_oldest_without_gap_or_repetition(database, store):
    # Several in the same millisecond: the id decides.
    insert(database, *(record(n, created_at=NOON + timedelta(milliseconds=n // 4)) for n in range(10)))
    found = list(pages(store))
    assert [len(page) for page in found] == [3, 3, 3, 1]
    assert list(chain(*found)) == [f"r{n:06}" for n in reversed(range(10))]


def test_a_last_page_that_is_just_full_says_so(database, store):
    insert(database, record(1), record(2))
    assert list(pages(store, limit=2)) == [["r000002", "r000001"]]
    assert list(pages(store, LogFilter(user="nobody"))) == [[]]


def test_records_of_earlier_software_are_paged_through_as_well(database, store):
    old = [ObjectId(f"{n:024x}") for n in range(1, 4)]
    database["request_logs"].insert_many([{"_id": _id, "createdAt": NOON} for _id in old])
    insert(database, record(1, created_at=NOON), record(2, created_at=NOON), record(3))
    assert list(chain(*pages(store, limit=1))) == ["r000003", *reversed(old), "r000002", "r000001"]


def test_records_arriving_meanwhile_do_not_shift_the_pages(database, store):
    insert(database, *(record(n) for n in range(4)))
    first, cursor = store.find(LogFilter(), 2)
    insert(database, record(9))
    second, _ = store.find(LogFilter(), 2, PageCursor.decode(cursor))
    assert ids(first + second) == ["r000003", "r000002", "r000001", "r000000"]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        pytest.param(LogFilter(model="claude"), ["r000002"], id="model"),
        pytest.param(LogFilter(user="bob"), ["r000003"], id="user"),
        pytest.param(LogFilter(key="wk_bob"), ["r000003"], id="key"),
        pytest.param(LogFilter(key="sk-troll...VWX"), ["r000004"], id="key as it is shown"),
        pytest.param(LogFilter(key="sk-troll...XXX"), [], id="another key"),
        pytest.param(LogFilter(factory_key="pool-2"), ["r000005"], id="upstream key"),
        pytest.param(LogFilter(outcome="rejected"), ["r000006"], id="outcome"),
        pytest.param(LogFilter(status=(402, 402)), ["r000006"], id="status"),
        pytest.param(LogFilter(status=(400, 499)), ["r000006"], id="status class"),
        pytest.param(LogFilter(api_format="anthropic"), ["r000002"], id="format"),
        pytest.param(LogFilter(start=NOON + timedelta(minutes=6)), ["r000006"], id="from, inclusive"),
        pytest.param(LogFilter(end=NOON + timedelta(minutes=2)), ["r000001"], id="to, exclusive"),
        pytest.param(LogFilter(text="000002"), ["r000002"], id="text in the id"),
        pytest.param(LogFilter(text="CLAU"), ["r000002"], id="text in the model, ignoring case"),
        pytest.param(LogFilter(text="no_credit"), ["r000006"], id="text in the error"),
        pytest.param(LogFilter(text="no CREDIT left"), ["r000006"], id="text in the message"),
        pytest.param(LogFilter(model="Vendor/New"), ["r000007"], id="unknown model"),
        pytest.param(LogFilter(text="vendor/n"), ["r000007"], id="text in the name of an unknown model"),
        pytest.param(LogFilter(model="Vendor/New", text="vendor"), ["r000007"], id="model and text"),
        pytest.param(LogFilter(model="Vendor/New", text="gpt"), [], id="model and another text"),
        pytest.param(LogFilter(text=".*"), [], id="text is no pattern"),
        pytest.param(LogFilter(user="ann", outcome="ok", text="r", status=(200, 299)), ["r000005"], id="all"),
    ],
)
def test_filters(database, store, wanted, expected):
    insert(
        database,
        record(1),
        record(2, model="claude", api_format="anthropic"),
        record(3, user_id="bob", user_key_id="wk_bob"),
        record(4, user_key_id=OLD_KEY),
        record(5, factory_key_id="pool-2"),
        record(
            6,
            outcome=Outcome.REJECTED,
            status_code=402,
            error_type="no_credit",
            error_message="You have no credit left.",
        ),
        record(7, model=None, requested_model="Vendor/New", created_at=NOON),
    )
    found, _ = store.find(wanted, 10)
    assert ids(found)[: len(expected) or None] == expected


def test_one_record(database, store):
    native = ObjectId()
    database["request_logs"].insert_one({"_id": native, "createdAt": NOON})
    insert(database, record(1))
    assert store.get("r000001")["userId"] == "ann"
    assert store.get(str(native))["_id"] == native
    assert store.get("r9") is None


def test_the_tail_reads_downwards(database, store):
    insert(database, *(record(n) for n in range(5)))
    assert ids(store.tail(LogFilter(), 2)) == ["r000003", "r000004"]


def test_an_export_is_complete_and_in_order(database, store):
    insert(database, *(record(n) for n in range(1200)))
    exported = ids(store.export(LogFilter(start=NOON + timedelta(minutes=100))))
    assert exported == [f"r{n:06}" for n in range(100, 1200)]


@pytest.mark.parametrize(
    "wanted",
    [
        LogFilter(),
        LogFilter(model="m"),
        LogFilter(user="u"),
        LogFilter(key="k"),
        LogFilter(factory_key="f"),
        LogFilter(outcome="ok"),
        LogFilter(status=(429, 429)),
        LogFilter(start=datetime(2026, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_page_costs_what_it_shows(database, store, wanted):
    ensure_indexes(database, 0)
    store.ensure_indexes()
    store.ensure_indexes()
    values = {"model": "m", "user_id": "u", "user_key_id": "k", "factory_key_id": "f", "status_code": 429}
    insert(database, *(record(n, **values) for n in range(60)))
    cursor = database["request_logs"].find(query_of(wanted)).sort([("createdAt", -1), ("_id", -1)]).limit(5)
    assert cursor.explain()["executionStats"]["totalDocsExamined"] <= 6


def test_an_index_the_operator_has_made_is_left_alone(database, store, caplog):
    database["request_logs"].create_index([("createdAt", -1), ("_id", -1)], name="mine")
    store.ensure_indexes()
    assert "mine" in database["request_logs"].index_information()
    assert len(caplog.messages) == 1


def test_a_store_that_is_down():
    nowhere = closed_database()
    store = RequestLogStore(nowhere)
    for ask in (
        lambda: store.find(LogFilter(), 1),
        lambda: store.get("r1"),
        lambda: list(store.export(LogFilter())),
        store.ensure_indexes,
    ):
        with pytest.raises(StoreUnavailable):
            ask()


def test_sequenced_records_are_what_is_read(store, database):
    database["request_logs"].insert_one(sequenced(1).document)
    assert store.find(LogFilter(), 1)[0][0]["requestId"] == "r000001"


def test_a_record_without_a_date_ends_the_paging_instead_of_breaking_it(database, store):
    database["request_logs"].insert_many([{"_id": "x"}, {"_id": "y"}])
    found, cursor = store.find(LogFilter(), 1)
    assert (ids(found), cursor) == (["y"], None)


def explained(database, store, wanted):
    """What the store asked the server for a page and the next, and what the server says each of it cost."""
    database.command("profile", 2)
    page = store.find(wanted, 5)
    if page[1] is not None:
        store.find(wanted, 5, PageCursor.decode(page[1]))
    database.command("profile", 0)
    ours = {"ns": f"{database.name}.request_logs", "op": {"$in": ["query", "command"]}}
    return page, [op for op in database["system.profile"].find(ours) if "planSummary" in op]


@pytest.mark.parametrize(
    "wanted",
    [
        pytest.param(LogFilter(user="u", model="m2"), id="two fields, one of them rare"),
        pytest.param(LogFilter(user="u", model="none"), id="two fields, nothing"),
        pytest.param(LogFilter(model="m", status=(200, 299), api_format="openai"), id="three, all common"),
        pytest.param(LogFilter(model="m", status=(201, 201)), id="a status nobody was sent"),
        pytest.param(LogFilter(model="m"), id="a model"),
        pytest.param(LogFilter(model="strange"), id="an unknown model"),
        pytest.param(LogFilter(status=(300, 399)), id="a class nobody was sent"),
        pytest.param(LogFilter(status=(400, 499)), id="a class"),
        pytest.param(LogFilter(api_format="anthropic"), id="format"),
        pytest.param(LogFilter(text="zzz"), id="a text that is nowhere"),
        pytest.param(LogFilter(text="zzz", user="u", outcome="ok"), id="a text beside fields"),
        pytest.param(LogFilter(key="wk_weir0...6789"), id="a key as it is shown"),
    ],
)
def test_no_page_costs_more_than_it_may(database, store, wanted, monkeypatch):
    monkeypatch.setattr(request_logs, "LOOKED_THROUGH", 40)
    monkeypatch.setattr(request_logs, "LOOKED_THROUGH_BY_TIME", 60)
    store.ensure_indexes()
    insert(database, *(record(n, model="m", user_id="u", status_code=200) for n in range(300)))
    insert(database, *(record(n, model="m2", user_id="v", status_code=403 + n % 3) for n in range(300, 320)))
    insert(database, *(record(n, model=None, requested_model="strange") for n in range(320, 360)))
    _, operations = explained(database, store, wanted)
    assert operations
    for operation in operations:
        assert "COLLSCAN" not in operation["planSummary"]
        # Nothing is sorted but the page itself.
        assert not operation.get("hasSortStage") or operation["docsExamined"] <= 6, operation["planSummary"]
        assert operation.get("docsExamined", 0) <= 62, operation
        assert operation.get("keysExamined", 0) <= 140, operation


@pytest.mark.parametrize("fields", [{}, {"user": "u"}, {"user": "u", "outcome": "ok"}])
def test_a_search_goes_on_where_it_ended_and_finds_everything(database, store, fields, monkeypatch):
    monkeypatch.setattr(request_logs, "LOOKED_THROUGH", 7)
    monkeypatch.setattr(request_logs, "LOOKED_THROUGH_BY_TIME", 7)
    insert(
        database,
        *(record(n, user_id="u", error_type="needle" if n % 17 == 0 else "hay") for n in range(120)),
    )
    found = list(pages(store, LogFilter(text="NEEDLE", **fields)))
    assert list(chain(*found)) == [f"r{n:06}" for n in reversed(range(0, 120, 17))]
    assert [] in found, "some pages were looked through in vain"
    assert ids(store.tail(LogFilter(text="needle", **fields), 3)) == ["r000085", "r000102", "r000119"]


def test_a_request_id_is_found_wherever_it_is(database, store, monkeypatch):
    monkeypatch.setattr(request_logs, "LOOKED_THROUGH_BY_TIME", 5)
    native = ObjectId()
    database["request_logs"].insert_one({"_id": native, "createdAt": NOON - timedelta(days=1)})
    insert(database, *(record(n) for n in range(30)))
    assert store.find(LogFilter(text="r000001"), 5) == ([store.get("r000001")], None)
    assert ids(store.find(LogFilter(text=str(native)), 5)[0]) == [native]
    # Other conditions hold for it too.
    assert store.find(LogFilter(text="r000001", user="bob"), 5) == ([], None)


def test_an_export_that_is_given_up_ends_its_reading(database, store):
    insert(database, *(record(n) for n in range(300)))
    export = store.export(LogFilter())
    next(export)

    def open_cursors():
        return database.client.admin.command("serverStatus")["metrics"]["cursor"]["open"]["total"]

    before = open_cursors()
    export.close()
    assert open_cursors() == before - 1


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (LogFilter(end_user="ann"), ["r000003", "r000001"]),
        (LogFilter(session="s1"), ["r000001"]),
        (LogFilter(tag="b"), ["r000002", "r000001"]),
        (LogFilter(client="curl/8"), ["r000003", "r000002", "r000001"]),
        (LogFilter(client="curl/8", tag="b", end_user="bob"), ["r000002"]),
    ],
)
def test_by_what_clients_say_of_themselves(database, store, wanted, found):
    store.ensure_indexes()
    said = [("ann", "s1", ("a", "b")), ("bob", "s2", ("b",)), ("ann", None, ())]
    records = [record(n + 1) for n in range(4)]
    for item, (user, session, tags) in zip(records, said, strict=False):
        item.attribution = Attribution(user, session, "curl/8", tags)
    insert(database, *records)
    assert list(chain(*pages(store, wanted))) == found
    assert sorted(ids(store.export(wanted))) == sorted(found)
