"""The kinds of attack that the drill plays. Each is a function that gives its clients, to be run at once."""

import base64
import gzip
import hashlib
import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import count, cycle, repeat
from typing import Any

import gevent

from drill.hostile import Attack, body_of, head, post
from drill.mix import CHAT, MESSAGES, Caller, make_request
from drill.prices import CHAT_MODEL, DEAR_MODEL, MESSAGES_MODEL

Client = Callable[[], None]

ADMIN_TOKEN = "drill-admin-token-of-the-attacked"  # noqa: S105  of a product that lives for minutes
NO_END, ECHOES = "attack-no-end", ("attack-echo-400", "attack-echo-403")
"""Scripts that the upstream has to know: an answer that is whole and goes on, refusals that repeat words."""
WORDS = "your api key has been banned, insufficient balance, account suspended"

_BOMB = gzip.compress(bytes(64 * 2**20), mtime=0)
_EMPTY_MEMBERS = gzip.compress(b"", mtime=0) * 20_000
# As long as the limit on the output lets them be: no `out`, which the upstream would do in any case.
_DEAR_PLAY, _LONG_PLAY = "prompt=20,chunks=100", "prompt=20,chunks=3000"


@dataclass(slots=True)
class Cast:
    """Who attacks.

    `rich` pays, `pauper` has next to nothing, `limited` may ask five times a minute, `poor` has credit for
    some answers, in either format, `leaver` never waits, `leaked` has a key that its owner is about to revoke
    with `revoke`. `left` are the hashes of the bodies whose answers nobody waited for.
    """

    rich: Caller
    pauper: Caller
    limited: Caller
    poor: tuple[Caller, Caller]
    leaver: Caller
    leaked: Caller
    revoke: Callable[[], None]
    revoked_at: float | None = None
    left: set[str] = field(default_factory=set)

    @property
    def users(self) -> tuple[Caller, ...]:
        """All of them."""
        return (self.rich, self.pauper, self.limited, *self.poor, self.leaver, self.leaked)


def slow_uploads(attack: Attack, cast: Cast) -> list[Client]:
    """Send bodies and heads a byte a second."""
    body = head(cast.pauper.key, length=1_000_000) + b'{"model":'
    half = b"POST /v1/messages HTTP/1.1\r\nHost: weir.drill\r\nX-Slow: "
    return [*[partial(attack.hold, body, b" ", 1.0)] * 10, *[partial(attack.hold, half, b"a", 1.0)] * 10]


def tiny_chunks(attack: Attack, cast: Cast) -> list[Client]:
    """Send bodies in chunks of a byte, and some whose chunks have long extensions."""
    first = head(cast.pauper.key, CHAT, "Transfer-Encoding: chunked")
    bytewise = b"1\r\na\r\n" * 2000
    extended = (b"1;" + b"x" * 200 + b"\r\na\r\n") * 100
    return [partial(attack.hold, first, more, 0.01) for more in (bytewise, extended) * 4]


def pipelining(attack: Attack, cast: Cast) -> list[Client]:
    """Send fifty requests at once on a connection, again and again."""
    models = head(cast.limited.key, "/v1/models", is_post=False)
    unknown = head(None, "/v1/models", is_post=False)
    return [partial(attack.flood, repeat(wire), at_once=50) for wire in (models, unknown)]


def compressed_bodies(attack: Attack, cast: Cast) -> list[Client]:
    """Send bodies of 64 kB that inflate to 64 MB, and some of twenty thousand empty parts."""
    bodies = (_BOMB, _EMPTY_MEMBERS)
    wires = cycle([post(cast.rich, body, CHAT, "Content-Encoding: gzip") for body in bodies])
    return [partial(attack.flood, wires)]


def unknown_keys(attack: Attack, _cast: Cast) -> list[Client]:
    """Try keys that nobody has, as fast as they are refused."""
    keys = (f"sk-attacker-{attack.random.getrandbits(128):032x}" for _ in count())
    return [partial(attack.flood, (head(key, length=2) + b"{}" for key in keys)) for _ in range(4)]


def refused_requests(attack: Attack, cast: Cast) -> list[Client]:
    """Send requests over a rate limit, without credit, for no model and of no sense, as fast as they go."""
    fine = body_of(CHAT_MODEL, "out=5")
    wires = (
        post(cast.limited, fine),
        post(cast.pauper, fine),
        post(cast.rich, body_of("no-such-model", "")),
        post(cast.rich, b'{"model":'),
    )
    return [partial(attack.flood, repeat(wire), at_once=10) for wire in wires]


def odd_members(attack: Attack, cast: Cast) -> list[Client]:
    """Send bodies that the upstream may understand in another way than the proxy."""
    return [partial(_ask_each, attack, _odd_bodies(cast.rich))]


def _odd_bodies(caller: Caller) -> Iterator[bytes]:
    odd: tuple[dict[str, Any], ...] = (
        {"stream": 1},
        {"stream": "true"},
        {"stream": []},
        {"Stream": True},
        {"stream": True, "stream_options": "x"},
        {"stream": True, "stream_options": []},
        {"stream": True, "Stream_Options": {"include_usage": False}},
        {"stream": True, "stream_options": {"include_usage": True, "Include_Usage": False}},
        {"Model": DEAR_MODEL},
        {"N": 50},
        {"n": 3.0},
        {"service_tier": "priority"},
    )
    for members in cycle(odd):
        yield post(caller, body_of(CHAT_MODEL, "prompt=50,out=20,chunks=4", more=members))


def _ask_each(attack: Attack, wires: Iterator[bytes]) -> None:
    while not attack.is_over:
        attack.ask(next(wires))
        gevent.sleep(0.02)


def overspending(attack: Attack, cast: Cast) -> list[Client]:
    """Send many dear requests at once, of users with credit for a few, with limits that claim little."""
    chat, messages = cast.poor

    def of_chat() -> bytes:
        told = attack.random.choice(({"max_tokens": 100, "n": 4}, {"max_completion_tokens": 100}, {}))
        more = {**told, "stream": attack.random.random() < 0.5}
        return post(chat, body_of(DEAR_MODEL, _DEAR_PLAY, more=more))

    def of_messages() -> bytes:
        return post(messages, body_of(MESSAGES_MODEL, _LONG_PLAY, more={"max_tokens": 3000}), MESSAGES)

    def waves(make: Callable[[], bytes]) -> None:
        while not attack.is_over:
            gevent.joinall([gevent.spawn(attack.ask, make()) for _ in range(20)], raise_error=True)
            gevent.sleep(0.3)

    return [partial(waves, make) for make in (of_chat, of_messages)]


def aborts(attack: Attack, cast: Cast) -> list[Client]:
    """Leave once the upstream has the request and before it has answered."""
    text = "lorem ipsum " * 500

    def client(number: int) -> None:
        while not attack.is_over:
            more = {"stream": True, "stream_options": {"include_usage": True}} if number % 2 else {}
            body = body_of(CHAT_MODEL, "first_ms=1500,out=50", text, more)
            cast.left.add(hashlib.sha256(body).hexdigest())
            attack.haul.tried += 1
            try:
                with closing(attack.connect()) as sock:
                    sock.sendall(post(cast.leaver, body))
                    gevent.sleep(0.5)
            except OSError:
                gevent.sleep(0.05)

    return [partial(client, number) for number in range(4)]


def guesses(attack: Attack, _cast: Cast) -> list[Client]:
    """Try tokens and passwords that are wrong, at every door of the operator."""
    tokens = (f"token-{attack.random.getrandbits(64):016x}" for _ in count())

    def login(token: str) -> bytes:
        body = f"token={token}".encode()
        fields = ("Content-Type: application/x-www-form-urlencoded", f"Content-Length: {len(body)}")
        return head(None, "/admin/login", *fields) + body

    ways: tuple[Callable[[str], bytes], ...] = (
        login,
        lambda token: head(token, "/keys/status", is_post=False),
        lambda token: head(None, "/api/admin/metrics", _basic(token), is_post=False),
    )
    return [partial(attack.flood, map(way, tokens)) for way in ways]


def _basic(password: str) -> str:
    return "Authorization: Basic " + base64.b64encode(f"admin:{password}".encode()).decode()


def dear_pages(attack: Attack, cast: Cast) -> list[Client]:
    """Ask for pages that are cheap to ask for and dear to draw."""
    open_pages = [
        head(None, path, is_post=False) for path in ("/api/docs", "/metrics", "/admin/login", "/", "/ready")
    ]
    own_pages = [
        head(cast.limited.key, path, is_post=False)
        for path in ("/api/user/me", "/api/user/detailed-usage", "/api/user/request-logs?limit=100")
    ]
    return [partial(attack.flood, cycle(wires)) for wires in (open_pages, open_pages, own_pages)]


def echoed_words(attack: Attack, cast: Cast) -> list[Client]:
    """Send words about keys and accounts, which the upstream repeats when it refuses the request."""
    return [partial(_ask_each, attack, _echoing(cast.rich))]


def _echoing(caller: Caller) -> Iterator[bytes]:
    for script in cycle(ECHOES):
        yield post(caller, body_of(CHAT_MODEL, f"script:{script}", WORDS))


def upstream_refusals(attack: Attack, cast: Cast) -> list[Client]:
    """Send requests that the upstream refuses with every key, or breaks off, whatever their fault."""
    faults = ("model_busy", "over_limit", "flagged", "403", "500", "reset_early", "leak_400")
    wires = (
        make_request(cast.rich, path, f"fault={fault}", is_stream=False).wire
        for fault, path in zip(cycle(faults), cycle((CHAT, MESSAGES)), strict=False)
    )
    return [partial(_ask_each, attack, wires)]


def revoked_key(attack: Attack, cast: Cast) -> list[Client]:
    """Go on asking with a key while its owner revokes it."""

    def client() -> None:
        while not attack.is_over:
            attack.ask(make_request(cast.leaked, CHAT, "out=5", is_stream=False).wire)
            gevent.sleep(0.1)

    def owner() -> None:
        gevent.sleep(max(0.0, attack.until - time.monotonic()) / 3)
        if cast.revoked_at is None:
            cast.revoke()
            cast.revoked_at = time.monotonic()

    return [client, client, owner]


def endless_answers(attack: Attack, cast: Cast) -> list[Client]:
    """Ask for answers that go on after their end, that never pause, and that stop in the middle."""
    plays = (f"script:{NO_END}", "chunks=4000,out=4000", "fault=stall,chunks=6")

    def client(play: str) -> None:
        while not attack.is_over:
            request = make_request(cast.rich, CHAT, play, is_stream=True, max_tokens=4000)
            try:
                with closing(attack.connect()) as sock:
                    attack.haul.tried += 1
                    sock.sendall(request.wire)
                    sock.settimeout(5.0)
                    while not attack.is_over and sock.recv(1 << 16):
                        pass
            except OSError:
                gevent.sleep(0.05)

    return [partial(client, play) for play in plays]


def unread_answers(attack: Attack, cast: Cast) -> list[Client]:
    """Ask for answers and read none."""

    def client() -> None:
        attack.haul.tried += 1
        with closing(socket.socket()) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", attack.port))
            play = "chunks=20,size=60000,out=9"
            sock.sendall(make_request(cast.rich, CHAT, play, is_stream=True).wire)
            gevent.sleep(max(0.0, attack.until - time.monotonic()))

    return [client] * 10


KINDS: dict[str, Callable[[Attack, Cast], list[Client]]] = {
    "slow uploads": slow_uploads,
    "tiny chunks": tiny_chunks,
    "pipelining": pipelining,
    "compressed bodies": compressed_bodies,
    "unknown keys": unknown_keys,
    "refused requests": refused_requests,
    "odd members": odd_members,
    "overspending": overspending,
    "aborts": aborts,
    "guesses": guesses,
    "dear pages": dear_pages,
    "echoed words": echoed_words,
    "upstream's refusals": upstream_refusals,
    "revoked key": revoked_key,
    "endless answers": endless_answers,
    "unread answers": unread_answers,
}


def status_of(port: int, path: str) -> int:
    """Return the status the operator is answered; 0 for no answer."""
    return _told(port, path)[0]


def keys_of(port: int) -> dict[str, int]:
    """Count the upstream keys in each state."""
    stats: dict[str, int] = json.loads(_told(port, "/keys/status")[1])["stats"]
    return stats


def _told(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {ADMIN_TOKEN}"})
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()
