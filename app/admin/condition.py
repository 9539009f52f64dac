"""Whether the proxy is well, in sentences: what is wrong, and what to do about it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from app.admin.formats import number, percent, seconds
from app.core.stats import Totals

BACKLOG_S = 30
"""Records that wait longer than this are worth a word."""
LOW_SUCCESS = 95.0
"""Per cent of the requests of the last hour, those the proxy refused left out."""
_FEW = 20
_FULL = 0.8


class KeyView(Protocol):
    """An upstream key as it may be shown."""

    @property
    def key_id(self) -> str:
        """Its id in the pool."""

    @property
    def masked(self) -> str:
        """The key as it may be shown."""

    @property
    def status(self) -> str:
        """Its state."""

    @property
    def available(self) -> bool:
        """Whether a request would get it now."""

    @property
    def last_error(self) -> str | None:
        """What went wrong last."""

    @property
    def cooldown_until(self) -> datetime | None:
        """When it may be used again."""

    @property
    def in_flight(self) -> int:
        """Requests it serves now, in this process."""

    @property
    def requests(self) -> int:
        """Requests it was given, in this process."""

    @property
    def failures(self) -> int:
        """How many of those failed."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something an administrator should know. `grave`: requests fail or records are lost."""

    what: str
    advice: str
    grave: bool


def findings(
    health: Mapping[str, Any],
    keys: Sequence[KeyView],
    spare_keys: int | None,
    last_hour: Totals | None,
) -> list[Finding]:
    """Everything that is wrong, the grave things first. `last_hour` is None while the store is away."""
    found = [*_records(health), *_keys(keys, spare_keys), *_requests(last_hour)]
    return sorted(found, key=lambda finding: not finding.grave)


def _records(health: Mapping[str, Any]) -> list[Finding]:
    found = []
    if health.get("lostRecords"):
        found.append(
            Finding(
                f"{number(health['lostRecords'])} records are lost since the start.",
                "The journal could not take them: look at its disk, then at the log.",
                grave=True,
            )
        )
    if health.get("deadLetters"):
        found.append(
            Finding(
                f"{number(health['deadLetters'])} records were refused by the database.",
                "They are kept, with the reason, in the collection request_logs_dead.",
                grave=True,
            )
        )
    if health.get("unkeptRecords"):
        found.append(
            Finding(
                f"{number(health['unkeptRecords'])} records are in memory only.",
                "The journal does not take them: a crash would lose them. Look at its disk.",
                grave=True,
            )
        )
    limit = health.get("journalMaxBytes") or 0
    if health.get("journalFull"):
        found.append(
            Finding("The journal is full.", "Free its disk, or get the database to answer again.", grave=True)
        )
    elif limit and health.get("journalBytes", 0) > _FULL * limit:
        share = percent(100 * health["journalBytes"] / limit)
        found.append(
            Finding(f"The journal is {share} full.", "It empties as records are booked.", grave=False)
        )
    if "storeUp" in health and not health["storeUp"]:
        found.append(
            Finding(
                "The database does not answer.",
                "Requests are served and records go to the journal meanwhile. Start it, or look at its log.",
                grave=True,
            )
        )
    elif health.get("oldestUnsentSeconds", 0) > BACKLOG_S:
        found.append(
            Finding(
                f"Records wait for {seconds(health['oldestUnsentSeconds'])} to be booked.",
                "The database is slower than the traffic, or was away.",
                grave=False,
            )
        )
    return found


def _keys(keys: Sequence[KeyView], spare_keys: int | None) -> list[Finding]:
    if not keys:
        return [
            Finding(
                "There is no upstream key: every request is answered with 503.",
                "Set OHMYGPT_API_KEYS, or add one with flask keys add.",
                grave=True,
            )
        ]
    usable = [key for key in keys if key.available]
    if not usable:
        return [
            Finding(
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
            Finding(
                f"{len(broken)} of {len(keys)} upstream keys are out of money or refused.",
                f"The others serve.{spare}",
                grave=False,
            )
        )
    return found


def _requests(last_hour: Totals | None) -> list[Finding]:
    if last_hour is None:
        return []
    # What the proxy refused is the clients' affair.
    taken = last_hour.requests - last_hour.rejected
    if taken < _FEW or 100 * last_hour.success >= LOW_SUCCESS * taken:
        return []
    return [
        Finding(
            f"{percent(100 - 100 * last_hour.success / taken)} of the last hour's requests failed.",
            "The log, filtered by outcome, says why.",
            grave=False,
        )
    ]
