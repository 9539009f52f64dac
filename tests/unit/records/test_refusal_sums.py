from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from app.records.records import Attribution, ExchangeRecord, Outcome
from app.records.refusal_sums import MAX_MODELS, RefusalSums

START = datetime(2026, 11, 30, 10, 58, 30, tzinfo=UTC)
OWN = 3


def refusal(
    name: str,
    at: datetime = START,
    *,
    key: str = "wk_a",
    status: int = 429,
    model: str | None = None,
    asked_for: str | None = None,
    outcome: Outcome = Outcome.REJECTED,
) -> ExchangeRecord:
    return ExchangeRecord(
        name,
        "ann",
        key,
        at,
        "openai",
        outcome,
        status,
        endpoint="chat",
        error_type=f"e{status}",
        model=model,
        requested_model=asked_for,
        bytes_out=10,
    )


def minute_of(at: datetime) -> int:
    return int(at.timestamp() // 60)


def test_the_first_of_a_minute_have_a_record_each_and_the_others_one_together() -> None:
    sums = RefusalSums(OWN)
    taken = [sums.add(refusal(f"r{n}"), minute_of(START), is_tight=False) for n in range(10)]
    assert taken == [False] * OWN + [True] * 7
    assert sums.take_due(minute_of(START)) == []
    [record] = sums.take_due(minute_of(START) + 1)
    assert (record.request_id, record.created_at, record.count, record.bytes_out) == ("r3", START, 7, 70)
    assert len(sums) == 0


def test_each_key_and_each_minute_begins_anew() -> None:
    sums = RefusalSums(1)
    for n in range(3):
        sums.add(refusal(f"a{n}"), 1, is_tight=False)
    assert not sums.add(refusal("b", key="wk_b"), 1, is_tight=False)
    assert not sums.add(refusal("a3"), 2, is_tight=False)
    assert [record.count for record in sums.take_due(2)] == [2]


def test_what_is_no_refusal_is_summed_only_where_there_is_no_room_for_it() -> None:
    sums = RefusalSums(0)
    assert not sums.add(refusal("r1", status=200, outcome=Outcome.OK), 1, is_tight=False)
    assert sums.add(refusal("r2", status=200, outcome=Outcome.OK), 1, is_tight=True)
    [record] = sums.take_due(None)
    assert (record.outcome, record.count) == (Outcome.OK, 1)
    assert "count" not in record.to_document()


def test_what_was_given_up_before_it_was_forwarded_counts_like_a_refusal() -> None:
    sums = RefusalSums(1)
    left = [refusal(f"r{n}", status=499, outcome=Outcome.CLIENT_ABORT) for n in range(3)]
    assert [sums.add(record, 1, is_tight=False) for record in left] == [False, True, True]
    assert not RefusalSums(0).add(refusal("x", outcome=Outcome.INTERNAL_ERROR), 1, is_tight=False)


def test_a_sum_says_nothing_of_the_model_that_not_all_asked_for() -> None:
    sums = RefusalSums(0)
    for name in ("x", "x", "y"):
        sums.add(refusal(name, asked_for=name), 1, is_tight=False)
    [record] = sums.take_due(None)
    assert (record.count, record.requested_model) == (3, None)


def test_models_without_end_make_a_bounded_number_of_sums() -> None:
    sums = RefusalSums(0)
    for n in range(1000):
        sums.add(refusal(f"r{n}", model=f"m{n}", asked_for="alias"), 1, is_tight=False)
    due = sums.take_due(None)
    assert len(due) == MAX_MODELS + 1
    assert sum(record.count for record in due) == 1000
    assert [record.count for record in due if record.model is None] == [1000 - MAX_MODELS]


def test_what_cannot_be_written_is_summed_by_the_hour() -> None:
    sums = RefusalSums(0)
    for step in range(4):  # from 10:58 to 11:01
        at = START + timedelta(minutes=step)
        sums.add(refusal(f"r{step}", at), minute_of(at), is_tight=False)
        for record in sums.take_due(minute_of(at)):
            sums.put_back(record, may_join=True)
    due = sums.take_due(None)
    assert Counter((record.created_at.hour, record.count) for record in due) == {(10, 2): 1, (11, 1): 2}


def test_only_what_has_grown_is_told_of() -> None:
    sums = RefusalSums(0)
    sums.add(refusal("a"), 1, is_tight=False)
    sums.add(refusal("b", status=400), 1, is_tight=False)
    assert len(sums.grown()) == 2
    sums.add(refusal("c"), 1, is_tight=False)
    assert [(record.request_id, record.count) for record in sums.grown()] == [("a", 2)]
    assert sums.grown() == []


@given(
    st.lists(
        st.tuples(
            st.integers(0, 90),  # seconds since the one before
            st.sampled_from(["wk_a", "wk_b"]),
            st.sampled_from([400, 429, 402]),
            st.booleans(),
            st.integers(0, 3),  # how many of what is due cannot be written
        ),
        max_size=60,
    )
)
def test_every_refusal_counts_once_and_no_minute_has_more_of_a_key_than_allowed(
    steps: list[tuple[int, str, int, bool, int]],
) -> None:
    sums = RefusalSums(OWN)
    at, written, own = START, [], defaultdict(Counter[str])
    sent: Counter[tuple[str, int, datetime]] = Counter()
    for number, (seconds, key, status, is_tight, unwritable) in enumerate(steps):
        at += timedelta(seconds=seconds)
        record = refusal(f"r{number}", at, key=key, status=status)
        sent[key, status, at.replace(minute=0, second=0)] += 1
        if not sums.add(record, minute_of(at), is_tight=is_tight):
            own[minute_of(at)][key] += 1
            written.append(record)
        for index, due in enumerate(sums.take_due(minute_of(at))):
            if index < unwritable:
                sums.put_back(due, may_join=index % 2 == 0)
            else:
                written.append(due)
    written += sums.take_due(None)
    assert all(count <= OWN for keys in own.values() for count in keys.values())
    assert len({record.request_id for record in written}) == len(written)
    booked: Counter[tuple[str, int, datetime]] = Counter()
    for record in written:
        hour = record.created_at.replace(minute=0, second=0)
        booked[record.user_key_id, record.status_code, hour] += record.count
    assert booked == sent


def test_a_sum_says_of_clients_what_they_all_say() -> None:
    sums = RefusalSums(0)
    for user, tag in (("ann", "t"), ("bob", "t"), ("ann", "t")):
        record = refusal("r")
        record.attribution = Attribution(user, "s", "curl/8", (tag,))
        sums.add(record, 1, is_tight=False)
    [record] = sums.take_due(2)
    assert record.attribution == Attribution(None, "s", "curl/8", ("t",))
