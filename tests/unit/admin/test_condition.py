"""Ten seconds: what is wrong comes first, and nothing is said when nothing is."""

from types import SimpleNamespace

import pytest

from app.admin.condition import findings
from app.pricing.ledger_findings import Finding
from app.records.records import Outcome
from app.statistics.figures import Totals

WELL = {
    "lostRecords": 0, "deadLetters": 0, "memoryOnlyRecords": 0, "journalFull": 0, "journalBytes": 10,
    "journalMaxBytes": 1000, "storeUp": 1, "oldestUnsentSeconds": 0.2,
}  # fmt: skip


def key(status="healthy", *, available=True):
    return SimpleNamespace(key_id="k", status=status, available=available)


def said(health=None, keys=None, spare=1, hour=None):
    found = findings(WELL | (health or {}), [key()] if keys is None else keys, spare, hour)
    return [(finding.grave, finding.what) for finding in found]


def test_nothing_is_said_of_a_healthy_proxy():
    assert said(hour=Totals(requests=100, success=99)) == []


@pytest.mark.parametrize(
    ("health", "grave", "words"),
    [
        ({"lostRecords": 3}, True, "3 records are lost"),
        ({"deadLetters": 1}, True, "refused by the database"),
        ({"memoryOnlyRecords": 2}, True, "in memory only"),
        ({"journalFull": 1}, True, "journal is full"),
        ({"journalBytes": 900}, False, "90\N{NO-BREAK SPACE}% full"),
        ({"storeUp": 0}, True, "does not answer"),
        ({"oldestUnsentSeconds": 31}, False, "wait for 31 s"),
        ({"upstreamHosts": [False, True]}, False, "1 upstream host is left alone by a worker at least: 0 of"),
        ({"upstreamHosts": [False, False]}, True, "2 upstream hosts are left alone"),
        ({"upstreamHosts": [True, True], "unpricedRequests": 1}, False, "1 request has used"),
        ({"reloadRefused": {"at": "12:00", "reason": "bad"}}, False, "reload of 12:00 was refused: bad."),
        ({"unpricedRequests": 2}, False, "2 requests have used what has no price"),
    ],
)
def test_what_is_wrong_with_records_is_said(health, grave, words):
    [(is_grave, what)] = said(health)
    assert is_grave is grave
    assert words in what


def test_a_backlog_is_not_told_beside_the_outage_that_made_it():
    assert len(said({"storeUp": 0, "oldestUnsentSeconds": 900})) == 1


def test_keys_that_cannot_serve_are_said():
    assert said(keys=[]) == [(True, "There is no upstream key: every request is answered with 503.")]
    away = key("rate_limited", available=False)
    assert said(keys=[away, away]) == [(True, "None of the 2 upstream keys can be used now.")]
    assert said(keys=[away, key()]) == []
    assert said(keys=[key("exhausted", available=False), key()]) == [
        (False, "1 of 2 upstream keys is out of money or refused.")
    ]


def test_failures_of_the_last_hour_are_said_but_not_what_the_proxy_refused():
    assert said(hour=Totals(requests=100, success=90)) == [
        (False, "10\N{NO-BREAK SPACE}% of the last hour's requests failed.")
    ]
    assert said(hour=Totals(requests=100, success=50, rejected=50)) == []
    assert said(hour=Totals(requests=5, success=0)) == []


def test_the_grave_things_come_first():
    found = said({"journalBytes": 900, "lostRecords": 1}, hour=Totals(requests=100))
    assert [grave for grave, _ in found] == [True, False, False]


def test_what_the_upstream_charges_too_much_is_said() -> None:
    ledger = [Finding("margin:gpt", "gpt costs more than it brings.", "Its price is too low.")]
    (advice,) = findings({}, [], None, None, ledger)[-1:]
    assert (advice.what, advice.advice, advice.grave) == (ledger[0].text, ledger[0].advice, False)


# Where one acts


def doors(**given):
    return [
        (door.title, door.endpoint, dict(door.parameters))
        for finding in findings(
            given.get("health", WELL),
            given.get("keys", [key()]),
            given.get("spare", 1),
            given.get("hour"),
            given.get("ledger", ()),
            given.get("proxies", ()),
        )
        for door in finding.doors
    ]


def test_failures_lead_to_just_those_requests() -> None:
    ((title, page, asked),) = doors(hour=Totals(requests=120, success=57, rejected=20))
    assert (title, page, asked["period"]) == ("Show the 43 requests", "requests.table", "1h")
    named = asked["outcome"].split(",")
    assert set(named) == set(Outcome) - {Outcome.OK, Outcome.REJECTED}


def test_a_key_that_is_away_leads_to_its_page_and_many_to_all() -> None:
    away = key("exhausted", available=False)
    of_key = ("k: out of money", "upstream.one_key", {"key_id": "k"})
    assert doors(keys=[away, key()]) == [of_key]
    assert [title for title, _, _ in doors(keys=[away, key()], spare=0)] == [of_key[0], "Add a backup key"]
    assert doors(keys=[away] * 4)[0] == ("Show the keys", "upstream.upstream", {"_anchor": "pool"})
    assert doors(keys=[])[0] == ("Add a key", "upstream.upstream", {"_anchor": "add-pool"})


def test_every_finding_leads_somewhere() -> None:
    health = {
        "lostRecords": 3, "deadLetters": 1, "memoryOnlyRecords": 2, "journalFull": 1, "storeUp": 0,
        "upstreamHosts": [False, True], "unpricedRequests": 1,
        "reloadRefused": {"at": "12:00", "reason": "bad"},
    }  # fmt: skip
    ledger = [Finding("margin:gpt", "gpt costs more.", ""), Finding("books:env-1", "env-1 differs.", "")]
    found = findings(health, [], 0, Totals(requests=100), ledger, [proxy("unhealthy")])
    assert len(found) == 13
    assert [finding.what for finding in found if not finding.doors] == []


def proxy(status, *, active=True):
    return SimpleNamespace(
        proxy_id="p", name="Berlin", is_active=active, problem=None, health=SimpleNamespace(status=status)
    )


def test_dead_proxies_are_said_but_not_those_out_of_use() -> None:
    alive, dead = proxy("healthy"), proxy("unhealthy")
    assert findings(WELL, [key()], 1, None, (), [alive, proxy("unhealthy", active=False)]) == []
    (some,) = findings(WELL, [key()], 1, None, (), [alive, dead])
    assert (some.what, some.grave) == ("1 of 2 proxies cannot be used.", False)
    (all_of_them,) = findings(WELL, [key()], 1, None, (), [dead])
    assert (all_of_them.what, all_of_them.grave) == ("1 of 1 proxy cannot be used.", True)
    assert doors(proxies=[dead]) == [("Proxy Berlin", "proxies.one_proxy", {"proxy_id": "p"})]
