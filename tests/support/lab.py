"""One proxy between a raw client and a scripted upstream, and the books of both sides compared."""

import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from app.pricing.explanation import explain
from app.pricing.model_table import ModelTable
from simulator import Script, Wait
from simulator.launcher import wait_until
from tests.support.raw_http import RawConnection, RawResponse
from tests.support.sse import compact
from tests.support.upstream_process import UpstreamProcess
from tests.support.weir_process import CLIENT_KEY, WeirProcess

CHAT, MESSAGES, COUNT = "/v1/chat/completions", "/v1/messages", "/v1/messages/count_tokens"
RESPONSES = "/v1/responses"
UNKNOWN = "–"
ESTIMATE = "~"
"""Counts of an answer that told none."""

_names = itertools.count(1)


@dataclass(slots=True)
class Played:
    """A request that is over: what the client got, what was recorded, what the upstream saw."""

    response: RawResponse
    record: dict[str, Any]
    entries: list[dict[str, Any]] = field(default_factory=list)

    @property
    def body(self) -> bytes:
        """The bytes the client got."""
        return self.response.body


class Lab:
    """Requests through a proxy, each expected to leave one record.

    `check_books` (the fixture calls it after every test) finds records that should not be there: it sends one
    last request and waits for its record, behind which there can be none of earlier ones. A lab opens with
    good upstream keys, whatever the test before did and however it ended.
    """

    def __init__(self, weir: WeirProcess, upstream: UpstreamProcess) -> None:
        self.weir = weir
        self.upstream = upstream
        self.expected_records = 0
        weir.restore_keys()
        self._records_before = weir.record_count()
        self._seq_before = upstream.last_seq()

    # -- requests -----------------------------------------------------------------------------------------

    def directive(self, play: Script | str) -> str:
        """What makes the upstream answer so: the `user` (or `metadata.user_id`) of a request."""
        if isinstance(play, str):
            return f"sim:{play}"
        return f"sim:{self.upstream.script(f'{os.getpid()}-{next(_names)}', play)}"

    def gate(self) -> str:
        """A fresh name for a gate in a script."""
        return f"gate-{os.getpid()}-{next(_names)}"

    def body(self, path: str, play: Script | str, **members: Any) -> bytes:
        """A request body whose answer is `play`; a member given as None is left out."""
        talk = [{"role": "user", "content": "hello"}]
        if path == CHAT:
            base: dict[str, Any] = {"model": "gpt-test", "user": self.directive(play)}
        elif path.startswith(RESPONSES):
            base = {"model": "gpt-response", "user": self.directive(play), "input": talk}
        else:
            base = {"model": "claude-test", "metadata": {"user_id": self.directive(play)}}
            base |= {"max_tokens": 100} if path == MESSAGES else {}
        if not path.startswith(RESPONSES):
            base |= {"messages": talk}
        return compact({name: value for name, value in (base | members).items() if value is not None})

    def stream_body(
        self, path: str, play: Script | str, *, usage: bool | None = True, **members: Any
    ) -> bytes:
        """A streamed request; `usage` is what a chat client says of `include_usage` (None: nothing)."""
        options = {"include_usage": usage} if path == CHAT and usage is not None else None
        return self.body(path, play, stream=True, **{"stream_options": options} | members)

    def headers(self, **more: str) -> dict[str, str]:
        """The usual headers of a request, the client key among them."""
        return _headers() | more

    def open(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> RawConnection:
        """Send a request on a connection of its own; reading the answer is up to the caller."""
        connection = RawConnection(self.weir.url)
        connection.request("POST", path, _headers(headers), body)
        self.expected_records += 1
        return connection

    def send(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> Played:
        """Send a request, read the whole answer, wait for the record."""
        with self.open(path, body, headers) as connection:
            response = connection.read_response()
        return self.played(response)

    def stream(self, path: str, play: Script | str | Iterable[bytes], **options: Any) -> Played:
        """A streamed request answered by a script, or by event stream pieces, each in a chunk of its own."""
        script = play if isinstance(play, Script | str) else Script.sse(play)
        return self.send(path, self.stream_body(path, script, **options))

    def in_step(
        self,
        path: str,
        steps: Sequence[tuple[bytes, bytes]],
        headers: Sequence[tuple[str, str]] = (),
        **options: Any,
    ) -> Played:
        """A streamed request whose upstream sends each piece only once the client has what is due until then.

        `steps` are the pieces with what each makes the client receive: nothing may wait for what comes later.
        """
        gates = [self.gate() for _ in steps]
        head, *data, end = Script.sse([sent for sent, _ in steps], headers=headers).steps
        waiting = [step for pair in zip(data, map(Wait, gates), strict=True) for step in pair]
        with self.open(path, self.stream_body(path, Script.of(head, *waiting, end), **options)) as connection:
            connection.read_head()
            due = 0
            for (_, received), gate in zip(steps, gates, strict=True):
                due += len(received)
                connection.read_bytes(due)
                self.upstream.open_gate(gate)
            return self.played(connection.read_rest())

    def plain(self, path: str, play: Script | str | bytes, **members: Any) -> Played:
        """A request that is not streamed, answered by a script or by a JSON body."""
        script = Script.body(play) if isinstance(play, bytes) else play
        return self.send(path, self.body(path, script, **members))

    def refused(self, method: str, target: str, headers: Mapping[str, str], body: bytes = b"") -> RawResponse:
        """A request that is expected to leave no record."""
        with RawConnection(self.weir.url) as connection:
            connection.request(method, target, headers, body)
            return connection.read_response()

    def direct(self, path: str, body: bytes) -> RawResponse:
        """The same request straight to the upstream: what the proxy is to pass on."""
        with RawConnection(self.upstream.url) as connection:
            connection.request("POST", path, _headers(), body)
            return connection.read_response()

    # -- books --------------------------------------------------------------------------------------------

    def played(self, response: RawResponse) -> Played:
        """What came of the request behind this answer."""
        return Played(response, self.weir.wait_record(response.request_id), self.entries())

    def entries(self) -> list[dict[str, Any]]:
        """What the upstream was asked since the lab was opened."""
        return self.upstream.tally(self._seq_before)

    def wait_entries(self, count: int = 1) -> list[dict[str, Any]]:
        """The upstream's entries, once there are so many and all of them are over."""

        def are_over() -> bool:
            entries = self.entries()
            return len(entries) >= count and all(entry["end"] != "open" for entry in entries)

        wait_until(are_over, what=f"{count} requests to end upstream")
        return self.entries()

    def new_records(self) -> list[dict[str, Any]]:
        """Records of this lab so far, oldest first."""
        return self.weir.records(skip=self._records_before)

    def only_record(self) -> dict[str, Any]:
        """The record of the only request, for clients that left without having seen its id."""
        self.settle()
        records = [record for record in self.new_records() if record["endpoint"] != "models"]
        assert len(records) == 1, f"{len(records)} records"
        return records[0]

    def settle(self) -> None:
        """Wait until as many records as requests are in the store, and any that should not be there, too.

        For requests whose end nobody has seen: the client left, or stopped reading at the last event, and the
        proxy may hear of what the upstream still had to say after it hears of the next request.
        """
        wait_until(lambda: self._record_count() >= self.expected_records, what="all records")
        self.fence()

    def fence(self) -> None:
        """Wait until every record put so far is in the store (one worker books in order)."""
        with RawConnection(self.weir.url) as connection:
            connection.request("GET", "/v1/models", _headers())
            response = connection.read_response()
        self.expected_records += 1
        self.weir.wait_record(response.request_id)

    def check_cost(self, record: Mapping[str, Any]) -> None:
        """What was charged is what the record's own version of the model table comes to."""
        version = record.get("priceVersion")
        table = None if version is None else _table(self._price_text(str(version)))
        found = explain(record, table)
        assert found.agrees, (found, record)

    def _record_count(self) -> int:
        return self.weir.record_count() - self._records_before

    def _price_text(self, version: str) -> str:
        stored: list[str] = []

        def look() -> bool:
            found = self.weir.database["price_versions"].find_one({"_id": version})
            stored.extend([found["text"]] if found else [])
            return bool(stored)

        wait_until(look, what=f"the text of version {version}")
        return stored[0]

    def check_books(self) -> None:
        """As many records as requests, no error logged since the last lab; then all keys are good again."""
        self.settle()
        attempts = [attempt for record in self.new_records() for attempt in record["attempts"]]
        if any("error" in attempt for attempt in attempts):
            self.weir.forgive_keys()
        assert self._record_count() == self.expected_records
        for record in self.new_records():
            self.check_cost(record)
        assert self.weir.new_errors() == []


@cache
def _table(text: str) -> ModelTable:
    return ModelTable.from_toml(text)


def _headers(headers: Mapping[str, str] | None = None) -> dict[str, str]:
    own = {"Authorization": f"Bearer {CLIENT_KEY}"} if headers is None else dict(headers)
    return {"Content-Type": "application/json", **own}


def counts(record: Mapping[str, Any]) -> str:
    """`fresh/read/write/output` of a record, `–` or `~`; tokens and cost are checked to agree with it."""
    names = ("inputTokens", "cacheHitTokens", "cacheWriteTokens", "outputTokens")
    values = [record[name] for name in names]
    assert record["tokensUsed"] == record["inputTokens"] + record["outputTokens"]
    if record["usageSource"] == "none":
        assert values == [0, 0, 0, 0]
        assert record["costNanoUsd"] == 0
        return UNKNOWN
    if record["usageSource"] == "estimate":
        assert values[0] > 0
        assert record["costNanoUsd"] > 0
        assert "estimated" in record["usageFlags"]
        return ESTIMATE
    return "/".join(map(str, values))


def check(
    record: Mapping[str, Any],
    wanted: str,
    outcome: str = "ok",
    *,
    status: int = 200,
    source: str | None = None,
    flags: Iterable[str] | None = None,
) -> None:
    """Compare a record with what a case says; `source` defaults to what the counts imply."""
    assert counts(record) == wanted
    assert record["outcome"] == outcome
    assert record["isSuccess"] is (outcome == "ok")
    assert record["statusCode"] == status
    implied = {UNKNOWN: "none", ESTIMATE: "estimate"}.get(wanted, "upstream")
    assert record["usageSource"] == (source or implied)
    if flags is not None:
        assert record.get("usageFlags", []) == sorted(flags)
