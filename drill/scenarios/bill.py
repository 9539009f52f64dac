"""Traffic of all formats while the model table changes, and an independent bill of it, to the nano-dollar."""

import hashlib
import json
import signal
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import gevent

from app.pricing.explanation import explain
from app.pricing.model_table import ModelTable
from drill.books import check_credits
from drill.mix import Caller, Request, next_number
from drill.prices import recorded_tokens
from drill.report import Findings
from drill.stage import Drill, Stage
from simulator.bill import PriceList
from simulator.launcher import Overdue, wait_until

Document = dict[str, Any]

_CLIENTS = 16
_GROUP = "friends"
_TERMS: tuple[dict[str, str], ...] = (
    {},
    {"priceFactor": "0.83"},
    {"group": _GROUP},
    {"priceFactor": "1.21", "group": _GROUP},
)
"""What is stored of each user that decides on their prices: their own factor comes before the group's."""
_CREDIT_USD = "1000000"
_CONTEXT = 1000
"""The context tier begins above so many tokens of input."""
_COLLECT_S = 10.0
_RELOAD_S = 120.0
_CHANGE_AFTER_S = 3
_LEAST_SHARE = 0.2
_WRITTEN = ("cache_write_5m", "cache_write_1h")
_FREE = ("moderations", "count_tokens")
_RELOADED_AT = (0.25, 0.6)
"""After which parts of the requests the table is replaced."""
_CLOCK_S = 1.0
"""How far the clock of client and proxy, which is the same one, may be set back while a request runs."""

_CHAT = {"input": "1.37", "output": "11.13", "cache_hit": "0.137", "cache_write": "1.71"}
_MESSAGES = {"input": "3.01", "output": "15.07", "cache_hit": "0.3007", "cache_write": "3.7603"}
_RESPONSES = {"input": "2.03", "output": "9.97", "cache_hit": "0.2003", "cache_write": "2.51"}
_HOUR = {"cache_write_1h": "6.0201"}


def _price_lists(version: int, change: datetime | None) -> dict[str, PriceList]:
    """Return the prices of a version of the table: odd ones, so that rounding matters."""
    more = f"{version}7"  # the last digits of some prices
    dear = ((_CONTEXT, {"input": f"5.0{more}", "output": "19.91"}),)
    changes = () if change is None else ((change, {"input": f"0.9{more}", "output": f"7.1{more}"}),)
    flex = {"flex": "0.5", "priority": "1.75"}
    searched = {"web_search": f"0.010{more}"}
    return {
        "gpt-bill": PriceList(_CHAT | _HOUR | {"input": f"1.3{more}"}, tiers=dear, service_tiers=flex),
        "claude-bill": PriceList(
            _MESSAGES | _HOUR, searched, dear, {"priority": f"1.2{more}"}, changes, multiplier="1.1"
        ),
        "codex-bill": PriceList(_RESPONSES | _HOUR, searched, dear, flex, changes),
        "old-bill": PriceList(_CHAT | _HOUR, changes=changes, multiplier=f"1.0{more}"),
        "embed-bill": PriceList({"input": f"0.02{more}", "output": "0"}),
        "rank-bill": PriceList({"input": "0", "output": "0"}, {"search_unit": f"0.002{more}"}),
        "image-bill": PriceList({"input": "5.03", "output": "9.9", "output_image": f"31.0{more}"}),
        "voice-bill": PriceList(
            {"input": "0.61", "output": "0", "output_audio": f"12.0{more}"}, {"character": "0.0000150003"}
        ),
        "ear-bill": PriceList(
            {"input": "2.5", "output": "10.01", "input_audio": f"6.0{more}"}, {"second": f"0.0001{more}"}
        ),
        "free-bill": PriceList({"input": "1", "output": "1"}),
    }


@dataclass(slots=True)
class _Version:
    """A text of the table: when it was put in force, and when it was gone, in seconds of the epoch."""

    prices: dict[str, PriceList]
    group_factor: str
    text: str
    begins: float
    is_over: float = float("inf")

    @property
    def name(self) -> str:
        """How records call it."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:12]


def _version(number: int, change: datetime | None) -> _Version:
    prices = _price_lists(number, change)
    factor = f"0.9{number}7"
    group = f'[groups.{_GROUP}]\nprice_factor = "{factor}"\n'
    text = "\n".join((*(price.toml(model) for model, price in prices.items()), group))
    return _Version(prices, factor, text, time.time())


class _Mixture:
    """Requests of every endpoint; each with the options that the simulator reads of its body."""

    def __init__(self, callers: list[Caller], random: Random) -> None:
        self._callers, self._random = callers, random
        self._kinds = (
            *[self._chat] * 5,
            *[self._message] * 5,
            *[self._response] * 5,
            *(self._completion, self._embedding, self._rank, self._image, self._speech, self._transcript),
            self._free,
        )

    def next(self) -> tuple[Request, int | None]:
        """Make a request; the number says after how many chunks its client leaves."""
        path, model, body, options, may_be_left = self._random.choice(self._kinds)()
        random = self._random
        is_stream = bool(body.get("stream"))
        leaves = may_be_left and is_stream and random.random() < 0.05
        if leaves:
            options += ",chunks=8,delay_ms=10"
        elif random.random() < 0.02:
            options += ",fault=400"
        if path == "/v1/messages":
            body["metadata"] = {"user_id": f"sim:{options}"}
        else:
            body["user"] = f"sim:{options}"
        caller = random.choice(self._callers)
        kind, data = (
            _form(body) if "transcriptions" in path else ("application/json", json.dumps(body).encode())
        )
        head = (
            f"POST {path} HTTP/1.1\r\nHost: weir.drill\r\nAuthorization: Bearer {caller.key}\r\n"
            f"Content-Type: {kind}\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        sha256 = hashlib.sha256(data).hexdigest()
        return Request(caller, model, path, is_stream, head.encode() + data, sha256), 3 if leaves else None

    def _counts(self) -> str:
        """Return token counts around the context tier, and a service tier at times."""
        random = self._random
        prompt = random.choice(
            (random.randrange(50, _CONTEXT), _CONTEXT, _CONTEXT + 1, random.randrange(1001, 9000))
        )
        cached, write = random.randrange(prompt // 2), random.randrange(prompt // 3)
        counts = f"prompt={prompt},cached={cached},write={write},out={random.randrange(1, 400)}"
        return counts + random.choice(("", "", "", ",tier=flex", ",tier=priority", ",tier=default"))

    def _never(self) -> str:
        return ",usage=never" if self._random.random() < 0.02 else ""

    def _chat(self) -> tuple[str, str, Document, str, bool]:
        content = [{"role": "user", "content": f"bill {next_number()}"}]
        body: Document = {"model": "gpt-bill", "messages": content, "max_tokens": 500}
        if self._random.random() < 0.6:
            body["stream"] = True
            if self._random.random() < 0.5:
                body["stream_options"] = {"include_usage": True}
        return "/v1/chat/completions", "gpt-bill", body, self._counts() + self._never(), True

    def _message(self) -> tuple[str, str, Document, str, bool]:
        content = [{"role": "user", "content": f"bill {next_number()}"}]
        body: Document = {"model": "claude-bill", "messages": content, "max_tokens": 500}
        body["stream"] = self._random.random() < 0.6
        options = (
            self._counts().replace("tier=flex", "tier=standard").replace("tier=default", "tier=standard")
        )
        if never := self._never():  # which tells no tier either
            return "/v1/messages", "claude-bill", body, options.partition(",tier=")[0] + never, True
        options += self._hour(options) + f",searches={self._random.choice((0, 0, 1, 3))}"
        return "/v1/messages", "claude-bill", body, options, True

    def _hour(self, options: str) -> str:
        write = int(options.partition("write=")[2].partition(",")[0])
        return f",write_1h={self._random.randrange(write + 1)}"

    def _response(self) -> tuple[str, str, Document, str, bool]:
        body: Document = {"model": "codex-bill", "input": f"bill {next_number()}", "max_output_tokens": 500}
        body["stream"] = self._random.random() < 0.6
        options = self._counts()
        options += self._never() or self._hour(options) + f",searches={self._random.choice((0, 0, 2))}"
        return "/v1/responses", "codex-bill", body, options, True

    def _completion(self) -> tuple[str, str, Document, str, bool]:
        body = {"model": "old-bill", "prompt": f"bill {next_number()}", "stream": self._random.random() < 0.5}
        options = f"prompt={self._random.randrange(9, 3000)},cached=5,out={self._random.randrange(1, 99)}"
        return "/v1/completions", "old-bill", body | {"max_tokens": 100}, options, False

    def _embedding(self) -> tuple[str, str, Document, str, bool]:
        body: Document = {"model": "embed-bill", "input": [f"bill {next_number()}"]}
        return "/v1/embeddings", "embed-bill", body, f"prompt={self._random.randrange(1, 5000)}", False

    def _rank(self) -> tuple[str, str, Document, str, bool]:
        documents = [f"bill {next_number()}"] * self._random.randrange(1, 350)
        body: Document = {"model": "rank-bill", "query": "bill", "documents": documents}
        return self._random.choice(("/v1/rerank", "/v2/rerank")), "rank-bill", body, "prompt=1", False

    def _image(self) -> tuple[str, str, Document, str, bool]:
        random = self._random
        body: Document = {
            "model": "image-bill",
            "prompt": f"bill {next_number()}",
            "n": random.randrange(1, 4),
        }
        if random.random() < 0.5:
            body |= {"stream": True, "n": 1}
        options = f"prompt={random.randrange(1, 99)},out={random.randrange(1, 5000)}"
        return "/v1/images/generations", "image-bill", body, options, False

    def _speech(self) -> tuple[str, str, Document, str, bool]:
        body: Document = {"model": "voice-bill", "voice": "a", "input": f"Größe 😀 {next_number()}"}
        if self._random.random() < 0.5:
            body["stream_format"] = "sse"
        options = f"prompt={self._random.randrange(1, 99)},out={self._random.randrange(1, 5000)}"
        return "/v1/audio/speech", "voice-bill", body, options, False

    def _transcript(self) -> tuple[str, str, Document, str, bool]:
        random = self._random
        body: Document = {
            "model": "ear-bill",
            "response_format": random.choice(("json", "verbose_json", "srt")),
        }
        if random.random() < 0.4:
            body = {"model": "ear-bill", "stream": True}
        body["prompt"] = f"bill {next_number()}"
        options = f"prompt={random.randrange(1, 999)},out={random.randrange(1, 99)},chunks=3"
        return "/v1/audio/transcriptions", "ear-bill", body, options, False

    def _free(self) -> tuple[str, str, Document, str, bool]:
        if self._random.random() < 0.5:
            body: Document = {"model": "free-bill", "input": f"bill {next_number()}"}
            return "/v1/moderations", "free-bill", body, "prompt=1", False
        content = [{"role": "user", "content": f"bill {next_number()}"}]
        return (
            "/v1/messages/count_tokens",
            "free-bill",
            {"model": "free-bill", "messages": content},
            "out=1",
            False,
        )


def _form(body: Document) -> tuple[str, bytes]:
    """Return a form of these fields and a file, with its content type."""
    fields = {name: "true" if value is True else str(value) for name, value in body.items()}
    parts = [f'Content-Disposition: form-data; name="{name}"\r\n\r\n{fields[name]}' for name in fields]
    parts.append('Content-Disposition: form-data; name="file"; filename="a.mp3"\r\n\r\nsound')
    text = "".join(f"--bill\r\n{part}\r\n" for part in parts) + "--bill--\r\n"
    return "multipart/form-data; boundary=bill", text.encode()


def bill(drill: Drill) -> Findings:
    """Bill a mixture of everything, while tables and prices change: every sum agrees."""
    findings = Findings("bill")
    with drill.stage("bill", users=len(_TERMS), is_started=False) as stage:
        stage.callers = stage.callers[1:]  # the fixed key has no balance
        for caller, terms in zip(stage.callers, _TERMS, strict=True):
            if terms:
                stage.database["usersNew"].update_one({"_id": caller.name}, {"$set": terms})
        versions = [_version(1, None)]
        table = stage.directory / "models.toml"
        table.write_text(versions[0].text)
        stage.weir.start()
        _send(drill, stage, versions)
        try:
            findings.figures["settled after, s"] = round(stage.wait_settled(), 1)
        except Overdue as error:
            findings.problem(str(error))
        _Ledger(findings, stage, versions).check()
        stage.verify(findings)
    return findings


def _send(drill: Drill, stage: Stage, versions: list[_Version]) -> None:
    """Send the level's number of requests, or some more; on the way, the table is replaced twice."""
    mixture, asked, total = _Mixture(stage.callers, drill.random), 0, drill.level.billed
    until = float("inf")

    def client() -> None:
        nonlocal asked
        while asked < until:
            asked += 1
            request, leaves = mixture.next()
            stage.load.send(request, leave_after=leaves)

    def collect() -> None:
        while True:  # the simulator keeps its last entries only
            gevent.sleep(_COLLECT_S)
            stage.upstream.collect()
            stage.console.say(f"bill: {asked} requests")

    clients = [gevent.spawn(client) for _ in range(_CLIENTS)]
    collector = gevent.spawn(collect)
    try:
        for number, share in enumerate(_RELOADED_AT, start=2):
            while asked < share * total:
                gevent.sleep(0.05)
            _reload(stage, versions, number)
        until = max(total, asked + total * _LEAST_SHARE)  # however long that took
        gevent.joinall(clients, raise_error=True)
    finally:
        gevent.killall([collector, *clients])


def _reload(stage: Stage, versions: list[_Version], number: int) -> None:
    """Put another table in force; its prices change once more a few seconds later."""
    before = set(stage.weir.worker_pids())
    soon = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=_CHANGE_AFTER_S)
    versions.append(_version(number, soon))
    (stage.directory / "models.toml").write_text(versions[-1].text)
    stage.weir.send(signal.SIGHUP)
    wait_until(
        lambda: before.isdisjoint(stage.weir.worker_pids()),
        _RELOAD_S,
        "workers with the new table",
        step_s=0.1,
    )
    versions[-2].is_over = time.time()


class _Ledger:
    """Compares records, balances and sums with the bill."""

    def __init__(self, findings: Findings, stage: Stage, versions: list[_Version]) -> None:
        self._findings, self._stage = findings, stage
        self._versions = {version.name: version for version in versions}
        self._entries = {entry["request_id"]: entry for entry in stage.upstream.collect()}
        self._calls = {call.request_id: call for call in stage.load.calls}
        self._terms = dict(zip((caller.name for caller in stage.callers), _TERMS, strict=True))
        stored = stage.database["price_versions"].find()
        self._tables = {version["_id"]: ModelTable.from_toml(version["text"]) for version in stored}
        self._owed: Counter[tuple[str, str]] = Counter()
        self._kinds: Counter[str] = Counter()
        self._conditions: Counter[str] = Counter()

    def check(self) -> None:
        """Compare them all."""
        findings, stage = self._findings, self._stage
        records = {record["_id"]: record for record in stage.database["request_logs"].find()}
        for record in records.values():
            cost = self._cost(record)
            found = record["costNanoUsd"]
            findings.expect(found == cost, f"{record['_id']} {record['model']} cost {cost}, charged {found}")
            items = sum(item["nanoUsd"] for item in record.get("costItems", ()))
            findings.expect(items == found, f"{record['_id']}: its items add up to {items}, not {found}")
            explained = explain(record, self._tables.get(record.get("priceVersion", "")))
            findings.expect(explained.agrees, f"{record['_id']} is not explained by its table: {explained}")
            self._owed[record["userId"], record["model"]] += cost
        findings.requests, findings.records = len(stage.load), len(records)
        findings.whole = sum(call.status == 200 for call in stage.load.calls)
        findings.lost = len(self._calls.keys() - records.keys())
        findings.expect(not findings.lost, f"{findings.lost} requests have no record")
        without = len(self._entries.keys() - {record.get("upstreamRequestId") for record in records.values()})
        findings.expect(not without, f"{without} requests reached the upstream and have no record")
        check_credits(findings, stage.database, stage.callers, records)
        self._check_sums()
        total = sum(self._owed.values())
        findings.figures |= {
            "load": dict(stage.load.endings()),
            "the bill, nano-dollars": total,
            "of which charged": sum(record["costNanoUsd"] for record in records.values()),
            "billed as": dict(self._kinds),
            "under conditions": dict(self._conditions),
            "by table": dict(Counter(record.get("priceVersion") for record in records.values())),
            "by endpoint": dict(Counter(record["endpoint"] for record in records.values())),
        }

    def _check_sums(self) -> None:
        """Check balances and hourly sums against the bill itself, not against records."""
        summed: Counter[tuple[str, str]] = Counter()
        for rollup in self._stage.database["request_rollups"].find():
            summed[str(rollup.get("userId")), str(rollup.get("model"))] += rollup.get("costNanoUsd", 0)
        for key in summed.keys() | self._owed.keys():
            self._findings.expect(
                summed[key] == self._owed[key], f"{key}: statistics {summed[key]}, bill {self._owed[key]}"
            )

    def _cost(self, record: Document) -> int:
        """Return what a record ought to cost, by what the upstream says it sent."""
        request_id, model = record["_id"], record["model"]
        entry = self._entries.get(record.get("upstreamRequestId") or "")
        self._findings.expect(entry is not None, f"{request_id} names no request of the upstream's")
        if entry is None or entry["status"] != 200:
            self._kinds["refused"] += 1
            return 0
        if record["endpoint"] in _FREE or (entry["spent"] is None and not entry["units"]):
            self._kinds["free"] += 1
            return 0
        version = self._version(record)
        prices, terms = version.prices[model], self._terms[record["userId"]]
        factor = terms.get("priceFactor") or (version.group_factor if "group" in terms else "1")
        told = {"began": record["createdAt"], "tier": entry["tier"], "factor": factor}
        self._count(prices, entry, record)
        if entry["spent"] is None or entry["announced"] == entry["spent"]:
            self._kinds["abandoned" if record["outcome"] == "client_abort" else "told"] += 1
            return prices.cost_nano(entry["spent"], entry["units"], **told)
        # Nobody was told how much it was. What it was estimated at has the right price, at least.
        self._kinds["estimated"] += 1
        flags = record.get("usageFlags", ())
        self._findings.expect("estimated" in flags, f"{request_id} was not told its usage: {flags}")
        return prices.cost_nano(recorded_tokens(record), entry["units"], **told)

    def _count(self, prices: PriceList, entry: Mapping[str, Any], record: Document) -> None:
        """Count what makes the price of a request another one than the first of the list."""
        spent = entry["spent"] or {}
        whole_input = sum(spent.get(name, 0) for name in ("fresh", "cache_read", *_WRITTEN))
        self._conditions["in the context tier"] += any(whole_input > above for above, _ in prices.tiers)
        self._conditions["in a service tier"] += entry["tier"] in prices.service_tiers
        self._conditions["after a change by date"] += any(
            record["createdAt"] >= moment for moment, _ in prices.changes
        )
        self._conditions["with units beside tokens"] += bool(entry["units"])
        self._conditions["at a factor of the user's"] += bool(self._terms[record["userId"]])

    def _version(self, record: Document) -> _Version:
        """Return the table that a request was charged by: one in force while it ran, as its client saw it."""
        request_id, name = record["_id"], record["priceVersion"]
        version, call = self._versions[name], self._calls.get(request_id)
        if call is None:
            outcome, endpoint = record["outcome"], record["endpoint"]
            self._findings.problem(f"{request_id} ({outcome}, {endpoint}) is of a request that nobody sent")
            return version
        began, ended = call.asked_at, call.over_at
        self._findings.expect(
            version.begins <= ended and began <= version.is_over, f"{request_id} was charged by table {name}"
        )
        self._findings.expect(
            began - _CLOCK_S <= record["createdAt"].timestamp() <= ended + _CLOCK_S,
            f"{request_id} is said to have begun at {record['createdAt']}",
        )
        return version
