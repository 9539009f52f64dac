"""Whether the proxy is well, in sentences: what is wrong, and what to do about it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from app.admin.formats import number, percent, seconds
from app.admin.key_history import key_state
from app.common.display import counted
from app.management.proxies import StoredProxy
from app.management.reading import KeyView
from app.pricing.ledger_findings import BOOKS, Finding
from app.records.records import Outcome
from app.statistics.figures import Totals

# Records that wait longer than this are worth a word.
BACKLOG_S = 30
LOW_SUCCESS = 95.0
"""Per cent of the requests of the last hour, those the proxy refused left out."""
_FEW = 20
_FULL = 0.8
_MOST_DOORS = 3
_FAILURES = ",".join(outcome for outcome in Outcome if outcome not in (Outcome.OK, Outcome.REJECTED))


@dataclass(frozen=True, slots=True)
class Door:
    """Where something is seen or done: what the link says, the page, and what the page is asked."""

    title: str
    endpoint: str
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Advice:
    """Something to be known, and where to act. `grave`: requests fail or records are lost."""

    what: str
    advice: str
    grave: bool
    doors: Sequence[Door] = ()


_JOURNAL = (Door("Journal and database", "home.home", {"_anchor": "machinery"}),)
_PRICES = Door("Prices", "prices.versions")
_ADD_KEY = Door("Add a key", "upstream.upstream", {"_anchor": "add-pool"})


def findings(
    health: Mapping[str, Any],
    keys: Sequence[KeyView],
    spare_keys: int | None,
    last_hour: Totals | None,
    ledger: Sequence[Finding] = (),
    proxies: Sequence[StoredProxy] = (),
) -> list[Advice]:
    """List everything that is wrong, the grave things first. `last_hour` is None while the store is away."""
    found = [*_records(health), *_keys(keys, spare_keys), *_requests(last_hour), *_proxies(proxies)]
    found += [*_hosts(health.get("upstreamHosts") or ()), *_prices(health), *_reload(health)]
    found += [Advice(item.text, item.advice, grave=False, doors=_ledger_doors(item)) for item in ledger]
    return sorted(found, key=lambda finding: not finding.grave)


def _records_are(count: int) -> str:
    return counted(count, "records are", one="record is")


def _records(health: Mapping[str, Any]) -> list[Advice]:
    found = []
    if health.get("lostRecords"):
        found.append(
            Advice(
                f"{_records_are(health['lostRecords'])} lost since the start.",
                "The journal could not take them: look at its disk, then at the log.",
                grave=True,
            )
        )
    if health.get("deadLetters"):
        found.append(
            Advice(
                f"{_records_are(health['deadLetters'])} refused by the database.",
                "They are kept, with the reason, in the collection request_logs_dead.",
                grave=True,
            )
        )
    if health.get("memoryOnlyRecords"):
        found.append(
            Advice(
                f"{_records_are(health['memoryOnlyRecords'])} in memory only.",
                "The journal does not take them: a crash would lose them. Look at its disk.",
                grave=True,
            )
        )
    limit = health.get("journalMaxBytes") or 0
    if health.get("journalFull"):
        found.append(
            Advice("The journal is full.", "Free its disk, or get the database to answer again.", grave=True)
        )
    elif limit and health.get("journalBytes", 0) > _FULL * limit:
        share = percent(100 * health["journalBytes"] / limit)
        found.append(
            Advice(f"The journal is {share} full.", "It empties as records are booked.", grave=False)
        )
    if "storeUp" in health and not health["storeUp"]:
        found.append(
            Advice(
                "The database does not answer.",
                "Requests are served and records go to the journal meanwhile. Start it, or look at its log.",
                grave=True,
            )
        )
    elif health.get("oldestUnsentSeconds", 0) > BACKLOG_S:
        found.append(
            Advice(
                f"Records wait for {seconds(health['oldestUnsentSeconds'])} to be booked.",
                "The database is slower than the traffic, or was away.",
                grave=False,
            )
        )
    return [replace(advice, doors=_JOURNAL) for advice in found]


def _keys(keys: Sequence[KeyView], spare_keys: int | None) -> list[Advice]:
    if not keys:
        return [
            Advice(
                "There is no upstream key: every request is answered with 503.",
                "Add one here, or set OHMYGPT_API_KEYS and start again.",
                grave=True,
                doors=(_ADD_KEY,),
            )
        ]
    usable = [key for key in keys if key.available]
    if not usable:
        return [
            Advice(
                "The only upstream key cannot be used now."
                if len(keys) == 1
                else f"None of the {number(len(keys))} upstream keys can be used now.",
                "Each says why, and when it comes back.",
                grave=True,
                doors=(*_key_doors(keys), _ADD_KEY),
            )
        ]
    broken = [key for key in keys if key.status in ("error", "exhausted")]
    if not broken:
        return []
    are = "is" if len(broken) == 1 else "are"
    left = counted(spare_keys or 0, "backup keys are", one="backup key is")
    spare = (Door("Add a backup key", "upstream.upstream", {"_anchor": "add-spares"}),)
    return [
        Advice(
            f"{len(broken)} of {len(keys)} upstream keys {are} out of money or refused.",
            "The others serve." if spare_keys is None else f"The others serve. {left} left.",
            grave=False,
            doors=(*_key_doors(broken), *(spare if spare_keys == 0 else ())),
        )
    ]


def _key_doors(keys: Sequence[KeyView]) -> list[Door]:
    """Return the way to each of the keys, or to all of them where there are many."""
    if len(keys) > _MOST_DOORS:
        return [Door("Show the keys", "upstream.upstream", {"_anchor": "pool"})]
    return [
        Door(f"{key.key_id}: {key_state(key.status)}", "upstream.one_key", {"key_id": key.key_id})
        for key in keys
    ]


def _proxies(proxies: Sequence[StoredProxy]) -> list[Advice]:
    used = [proxy for proxy in proxies if proxy.is_active]
    dead = [proxy for proxy in used if proxy.problem or proxy.health.status == "unhealthy"]
    if not dead:
        return []
    some = len(dead) < len(used)
    doors = [
        Door(f"Proxy {proxy.name}", "proxies.one_proxy", {"proxy_id": proxy.proxy_id})
        for proxy in dead[:_MOST_DOORS]
    ]
    return [
        Advice(
            f"{len(dead)} of {counted(len(used), 'proxies', one='proxy')} cannot be used.",
            "Requests go through the others."
            if some
            else "Requests go directly, unless UPSTREAM_PROXY_FALLBACK_DIRECT is off.",
            grave=not some,
            doors=doors if len(dead) <= _MOST_DOORS else [Door("Show the proxies", "proxies.all_proxies")],
        )
    ]


def _ledger_doors(finding: Finding) -> Sequence[Door]:
    kind, _, subject = finding.name.partition(":")
    if kind == BOOKS:
        return (Door(f"The key {subject}", "upstream.one_key", {"key_id": subject}),)
    margins = Door("Margins", "upstream_models.models", {"period": "today"})
    return (margins, _PRICES, Door("Its requests", "requests.table", {"period": "today", "model": subject}))


def _hosts(is_used: Sequence[bool]) -> list[Advice]:
    left = [str(position) for position, used in enumerate(is_used) if not used]
    if not left:
        return []
    are = counted(len(left), "upstream hosts are", one="upstream host is")
    return [
        Advice(
            f"{are} left alone by a worker at least: {', '.join(left)} of OHMYGPT_BASE_URL.",
            "Requests go to the others." if len(left) < len(is_used) else "All are tried, in order.",
            grave=len(left) == len(is_used),
            doors=(Door("Show the hosts", "upstream.upstream", {"_anchor": "hosts"}),),
        )
    ]


def _prices(health: Mapping[str, Any]) -> list[Advice]:
    if not (count := health.get("unpricedRequests")):
        return []
    return [
        Advice(
            f"{counted(count, 'requests have', one='request has')} used what has no price since the start.",
            "It was charged at 0. Their records say what (unpriced); the model table takes prices.",
            grave=False,
            doors=(_PRICES,),
        )
    ]


def _reload(health: Mapping[str, Any]) -> list[Advice]:
    if not (refused := health.get("reloadRefused")):
        return []
    return [
        Advice(
            f"The reload of {refused['at']} was refused: {refused['reason']}.",
            "All goes on with what was in force before. Mend the file, then reload again.",
            grave=False,
            doors=(_PRICES,),
        )
    ]


def _requests(last_hour: Totals | None) -> list[Advice]:
    if last_hour is None:
        return []
    # What the proxy refused is the clients' affair.
    taken = last_hour.requests - last_hour.rejected
    if taken < _FEW or 100 * last_hour.success >= LOW_SUCCESS * taken:
        return []
    show = f"Show the {counted(taken - last_hour.success, 'requests', one='request')}"
    return [
        Advice(
            f"{percent(100 - 100 * last_hour.success / taken)} of the last hour's requests failed.",
            "Each says why.",
            grave=False,
            doors=(Door(show, "requests.table", {"period": "1h", "outcome": _FAILURES}),),
        )
    ]
