"""Whether the proxy is well, in sentences: what is wrong, and what to do about it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.admin.formats import number, percent, seconds
from app.common.display import counted
from app.management.reading import KeyView
from app.pricing.ledger_findings import Finding
from app.statistics.figures import Totals

# Records that wait longer than this are worth a word.
BACKLOG_S = 30
LOW_SUCCESS = 95.0
"""Per cent of the requests of the last hour, those the proxy refused left out."""
_FEW = 20
_FULL = 0.8


@dataclass(frozen=True, slots=True)
class Advice:
    """Something an administrator should know. `grave`: requests fail or records are lost."""

    what: str
    advice: str
    grave: bool


def findings(
    health: Mapping[str, Any],
    keys: Sequence[KeyView],
    spare_keys: int | None,
    last_hour: Totals | None,
    ledger: Sequence[Finding] = (),
) -> list[Advice]:
    """List everything that is wrong, the grave things first. `last_hour` is None while the store is away."""
    found = [*_records(health), *_keys(keys, spare_keys), *_requests(last_hour)]
    found += [*_hosts(health.get("upstreamHosts") or ()), *_prices(health), *_reload(health)]
    found += [Advice(finding.text, finding.advice, grave=False) for finding in ledger]
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
    return found


def _keys(keys: Sequence[KeyView], spare_keys: int | None) -> list[Advice]:
    if not keys:
        return [
            Advice(
                "There is no upstream key: every request is answered with 503.",
                "Set OHMYGPT_API_KEYS, or add one with weir keys add.",
                grave=True,
            )
        ]
    usable = [key for key in keys if key.available]
    if not usable:
        return [
            Advice(
                f"None of the {len(keys)} upstream keys can be used now.",
                "The table of keys says why, and when they come back.",
                grave=True,
            )
        ]
    found = []
    broken = [key for key in keys if key.status in ("error", "exhausted")]
    if broken:
        spare = "" if spare_keys is None else f" {number(spare_keys)} backup keys are left."
        found.append(
            Advice(
                f"{len(broken)} of {len(keys)} upstream keys are out of money or refused.",
                f"The others serve.{spare}",
                grave=False,
            )
        )
    return found


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
        )
    ]


def _requests(last_hour: Totals | None) -> list[Advice]:
    if last_hour is None:
        return []
    # What the proxy refused is the clients' affair.
    taken = last_hour.requests - last_hour.rejected
    if taken < _FEW or 100 * last_hour.success >= LOW_SUCCESS * taken:
        return []
    return [
        Advice(
            f"{percent(100 - 100 * last_hour.success / taken)} of the last hour's requests failed.",
            "The log, filtered by outcome, says why.",
            grave=False,
        )
    ]
