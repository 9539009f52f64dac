"""The comparison: what the load client saw and what the simulator sent, against records, charges and sums."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pymongo.database import Database

from drill.load import Call
from drill.mix import Caller
from drill.prices import cost_nano, recorded_tokens
from drill.report import Findings
from drill.wire import Ending

Document = dict[str, Any]

# A whole answer may be recorded as interrupted if a worker was killed while it ran, or so soon after its end,
# in seconds: a machine may stand still for that long before the worker has written down that it is over.
KILL_WINDOW_S = 10.0

_STORE_AWAY = b"database cannot be reached"
_SUMMED = ("costNanoUsd", "inputTokens", "outputTokens")
_FIELDS = (
    *("userId", "userKeyId", "factoryKeyId", "model", "stream", "outcome", "statusCode", "usageSource"),
    *("cacheHitTokens", "cacheWriteTokens", "cacheWrite1hTokens", "reasoningTokens", "tokensUsed"),
    *("upstreamRequestId", "holdNanoUsd", "count", *_SUMMED),
)


def read_records(database: Database[Document]) -> dict[str, Document]:
    """Read all records, by id."""
    found = database["request_logs"].find({}, dict.fromkeys(_FIELDS, 1))
    return {record["_id"]: record for record in found}


def requests_of(record: Document) -> int:
    """Return how many requests a record stands for: of refusals it may be many."""
    return int(record.get("count") or 1)


class Audit:
    """Compares requests one by one; what it finds goes into `findings`."""

    def __init__(
        self,
        findings: Findings,
        calls: Sequence[Call],
        entries: Sequence[Mapping[str, Any]],
        records: Mapping[str, Document],
        kill_times: Sequence[float] = (),
    ) -> None:
        self._findings = findings
        self._records = records
        self._entries = entries
        self._calls = calls
        self._kill_times = kill_times
        self._by_id = {call.request_id: call for call in calls if call.request_id}
        self._by_sha = {call.sha256: call for call in calls}
        self._entries_by_id = {entry["request_id"]: entry for entry in entries}
        self._entries_by_sha = {entry["body_sha256"]: entry for entry in entries}
        self._nameless = 0
        self._matched: set[str] = set()
        self._anonymous: Counter[str] = Counter()
        # Refusals beyond the one that gave a sum its record, by client key and status.
        self._summed: Counter[tuple[str, int]] = Counter()
        for record in records.values():
            self._summed[record["userKeyId"], record["statusCode"]] += requests_of(record) - 1

    def run(self, reduced: int = 0) -> None:
        """Make all comparisons; each request the client or the simulator knows is accounted for once.

        `reduced` records of whole answers, and no more, do not name the upstream's request.
        """
        findings = self._findings
        findings.requests = len(self._calls)
        findings.whole = sum(call.ending is Ending.WHOLE and call.status == 200 for call in self._calls)
        findings.records = len(self._records)
        findings.interrupted = sum(record["outcome"] == "interrupted" for record in self._records.values())
        findings.figures["records by outcome"] = dict(
            Counter(record["outcome"] for record in self._records.values())
        )
        for call in self._calls:
            if call.request_id is not None:
                self._check_call(call, call.request_id)
        self._check_records()
        self._check_entries()
        self._check_sums_of_refusals()
        findings.expect(self._nameless == reduced, f"{self._nameless} records do not name the upstream's id")

    def _check_call(self, call: Call, request_id: str) -> None:
        record = self._records.get(request_id)
        if record is None:
            if call.status == 503 and _STORE_AWAY in call.error:
                return  # nobody was identified, so nobody has a record
            kind = call.caller.key_id, call.status
            if self._summed[kind] > 0:
                self._summed[kind] -= 1
                return
            self._matched.add(call.sha256)  # as far as anything is to be said of it
            self._findings.lost += 1
            self._findings.problem(f"no record of {request_id} ({call.ending.value}, {call.status})")
            return
        self._matched.add(call.sha256)
        if (record["userId"], record["userKeyId"]) != (call.caller.name, call.caller.key_id):
            self._findings.problem(f"{request_id} is recorded for {record['userId']}, {record['userKeyId']}")
        if call.ending is not Ending.WHOLE:
            return
        if call.status != 200:
            self._findings.expect(
                record["statusCode"] == call.status,
                f"{request_id} was answered {call.status} and recorded {record['statusCode']}",
            )
            return
        self._check_whole(call, request_id, record)

    def _check_whole(self, call: Call, request_id: str, record: Document) -> None:
        """Check an answer the client had all of: its record says so, and says what it cost."""
        expect = self._findings.expect
        was_killed = any(call.began <= at < call.ended + KILL_WINDOW_S for at in self._kill_times)
        allowed = ("ok", "interrupted") if was_killed else ("ok",)
        expect(record["outcome"] in allowed, f"{request_id} was whole and is recorded as {record['outcome']}")
        expect(
            (record["model"], record["stream"]) == (call.model, call.is_stream),
            f"{request_id}: model, stream",
        )
        upstream_id = record.get("upstreamRequestId")
        entry = self._entries_by_id.get(upstream_id or "")
        if upstream_id is None:
            self._nameless += 1
            entry = self._entries_by_sha.get(call.sha256)
        if entry is None or entry["body_sha256"] != call.sha256:
            self._findings.problem(f"{request_id} names the upstream's {upstream_id}")
            return
        announced, tokens = entry["announced"] or {}, recorded_tokens(record)
        expect(tokens == announced, f"{request_id}: the upstream sent {announced}, recorded is {tokens}")
        if announced:
            cost = cost_nano(call.model, announced)
            expect(
                record["costNanoUsd"] == cost, f"{request_id} cost {cost}, charged {record['costNanoUsd']}"
            )
        if call.output_tokens is not None:
            seen, recorded = call.output_tokens, record["outputTokens"]
            expect(seen == recorded, f"{request_id}: the client saw {seen} output tokens, not {recorded}")

    def _check_records(self) -> None:
        """Check that no record is without a request or there twice, and each is priced by its own counts."""
        seen: set[str] = set()
        for request_id, record in self._records.items():
            upstream_id = record.get("upstreamRequestId")
            if upstream_id in seen:
                self._duplicate(f"{upstream_id} of the upstream has two records, {request_id} is one")
                continue
            if upstream_id:
                seen.add(upstream_id)
            if record["model"] and record["usageSource"] != "none":
                cost = cost_nano(record["model"], recorded_tokens(record))
                self._findings.expect(record["costNanoUsd"] == cost, f"{request_id}: its counts cost {cost}")
            if request_id not in self._by_id:
                self._check_unseen(request_id, record)

    def _check_unseen(self, request_id: str, record: Document) -> None:
        """Check a record whose id no client saw: of a request that died before it was answered."""
        entry = self._entries_by_id.get(record.get("upstreamRequestId") or "")
        if entry is None:
            self._anonymous[record["userId"]] += 1
            return
        call = self._by_sha.get(entry["body_sha256"])
        if call is None:
            self._findings.problem(f"{request_id} is a record of a request that nobody sent")
        elif call.sha256 in self._matched:
            self._duplicate(f"{request_id} is a second record of {call.request_id or call.sha256}")
        else:
            self._matched.add(call.sha256)

    def _check_entries(self) -> None:
        """Check that what reached the upstream has a record; records of nobody are unanswered requests."""
        unaccounted: Counter[str] = Counter()
        for entry in self._entries:
            call = self._by_sha.get(entry["body_sha256"])
            if call is None:
                self._findings.problem(f"the upstream was asked something nobody sent: {entry['model']}")
            elif call.sha256 not in self._matched:
                unaccounted[call.caller.name] += 1
        unanswered = Counter(
            call.caller.name
            for call in self._calls
            if call.request_id is None and call.sha256 not in self._matched
        )
        for name in {*unaccounted, *self._anonymous}:
            missing = unaccounted[name] - self._anonymous[name]
            if missing > 0:
                self._findings.lost += missing
                self._findings.problem(
                    f"{missing} requests of {name} reached the upstream and have no record"
                )
            surplus = self._anonymous[name] - unanswered[name]
            if surplus > 0:
                self._findings.duplicated += surplus
                self._findings.problem(f"{surplus} records of {name} belong to no request")

    def _check_sums_of_refusals(self) -> None:
        """Check that sums count no more refusals than there were, heard of or not."""
        unanswered = Counter(call.caller.key_id for call in self._calls if call.request_id is None)
        for (key_id, status), surplus in self._summed.items():
            if surplus > unanswered[key_id]:
                self._findings.duplicated += surplus - unanswered[key_id]
                self._findings.problem(f"sums count {surplus} refusals ({status}) of {key_id} too many")

    def _duplicate(self, text: str) -> None:
        self._findings.duplicated += 1
        self._findings.problem(text)


def check_sums(
    findings: Findings,
    database: Database[Document],
    callers: Iterable[Caller],
    records: Mapping[str, Document],
) -> None:
    """Check credits to the nano-dollar, counters and hourly sums, each against the records."""
    check_credits(findings, database, callers, records)
    key_requests: Counter[str] = Counter()
    key_tokens: Counter[str] = Counter()
    for record in records.values():
        for key in (record["userKeyId"], record.get("factoryKeyId")):
            if key is not None:
                key_requests[key] += requests_of(record)
                key_tokens[key] += record["tokensUsed"]
    for collection in ("user_keys", "ohmygpt_keys"):
        for key in database[collection].find():
            name, counted = key["_id"], (key.get("requestsCount", 0), key.get("tokensUsed", 0))
            wanted = (key_requests[name], key_tokens[name])
            findings.expect(counted == wanted, f"{collection} {name}: {counted}, records say {wanted}")
    sums: Counter[str] = Counter()
    for rollup in database["request_rollups"].find():
        sums.update({name: rollup.get(name, 0) for name in ("requests", *_SUMMED)})
    in_records = {name: sum(record[name] for record in records.values()) for name in _SUMMED}
    in_records["requests"] = sum(map(requests_of, records.values()))
    findings.expect(sums == Counter(in_records), f"hourly sums {dict(sums)}, records say {in_records}")


def check_credits(
    findings: Findings,
    database: Database[Document],
    callers: Iterable[Caller],
    records: Mapping[str, Document],
) -> None:
    """Check that what was taken from each user is what their records cost, to the nano-dollar."""
    costs: defaultdict[str, int] = defaultdict(int)
    for record in records.values():
        costs[record["userId"]] += record["costNanoUsd"]
    for caller in callers:
        if caller.granted_nano is not None:
            _check_user(findings, database, caller, costs[caller.name])


def _check_user(findings: Findings, database: Database[Document], caller: Caller, cost: int) -> None:
    user = database["usersNew"].find_one({"_id": caller.name}) or {}
    used = _nano(user.get("creditsUsed"))
    left = _nano(user.get("credits")) + _nano(user.get("refCredits"))
    overdraft = int(user.get("overdraftNanoUsd") or 0)
    taken = (caller.granted_nano or 0) - left + overdraft
    findings.expect(used == cost, f"{caller.name}: creditsUsed {used}, records cost {cost}")
    findings.expect(taken == cost, f"{caller.name}: taken {taken}, records cost {cost}")
    findings.expect(not user.get("holds"), f"{caller.name}: holds left behind: {user.get('holds')}")


def _nano(usd: Any) -> int:
    return round(float(usd or 0) * 10**9)
