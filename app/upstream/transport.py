"""The transport to the upstream, as those who send through it see it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

import msgspec


@dataclass(frozen=True, slots=True)
class ProviderKey:
    """An upstream key that may be used now: its pool id and the secret itself (never shown whole).

    `store_id` is the id under which its state is stored, where that is another: that of a configured key is
    the same on all hosts.
    """

    key_id: str
    secret: str
    store_id: str = ""

    @property
    def stored_as(self) -> str:
        """The id under which the key is known to all workers and hosts."""
        return self.store_id or self.key_id

    def __repr__(self) -> str:
        return f"ProviderKey({self.key_id!r})"


class Passed(Enum):
    """What became of bytes that were offered to a client's connection."""

    ON = "on"
    """All of them are on their way."""
    PARTLY = "partly"
    """It has them, but the client does not take them all: `ClientStream.flush` before anything else."""
    NOT = "not"
    """Not one: they have to go the usual way."""


class UpstreamReply(Protocol):
    """An upstream answer whose status and headers have arrived; `proxy_id` is the proxy it came through.

    `host` is the position of the upstream host that gave it, None where there is only one. `is_of_host`: it
    is a page of what is in front of that host, and another one may serve the request.
    """

    status: int
    headers: Mapping[str, str]
    proxy_id: str | None
    host: int | None
    is_of_host: bool

    def read(self) -> bytes:
        """Return whatever has arrived, at least one byte, waiting for it; `b""` at the proper end.

        Raises `UpstreamFailure` when the answer is cut, stalls or breaks its own framing.
        """

    def read_passing(self, pass_on: Callable[[bytes], Passed]) -> bytes | None:
        """Read like `read`, but offer what comes to `pass_on` first, which must not wait.

        Only what `pass_on` does not take is returned, and None when the client does not keep up with it.
        """

    def close(self) -> None:
        """Give the connection back when the answer was read to its end, else close it. Idempotent."""


class Upstream(Protocol):
    """The transport to the upstream."""

    def send(
        self, request: "UpstreamRequest", key: ProviderKey, avoiding: frozenset[int] = frozenset()
    ) -> UpstreamReply:
        """Send and wait for the headers; `avoiding` are hosts that could not serve this request before.

        Raises `UpstreamFailure`.
        """


class LargeBody(Protocol):
    """A request body that is not in memory, or not in one piece; its length is `len`."""

    words: bytes
    """The text in it: what an upstream's error may repeat."""

    def __len__(self) -> int:
        """Return how many bytes it has."""

    def pieces(self) -> Iterator[bytes]:
        """Yield all of it in pieces of bounded size, each time it is called."""


class UpstreamRequest(msgspec.Struct, frozen=True):
    """What goes upstream: path with its leading slash, raw query string, headers without credentials."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes | LargeBody

    @property
    def words(self) -> bytes:
        """The text of the body."""
        return self.body if isinstance(self.body, bytes) else self.body.words


PLAIN: Final = {"Accept": "application/json", "Accept-Encoding": "identity"}
"""The headers of what the proxy asks for itself: answers that it reads whole."""
LIST_MODELS: Final = UpstreamRequest("GET", "/v1/models", "", PLAIN, b"")
"""What the upstream is asked to see what it offers, or whether a key or a host is good."""


class UpstreamFailure(Exception):
    """The transport failed; `kind` says how: unreachable, no_proxy, reset, timeout, truncated or garbled.

    `is_stale` says that the connection came from the pool and the upstream had given it up: a fresh one may
    do. `proxy_id` is the outbound proxy it had gone through, if there was one; `host` and `is_of_host` are as
    those of an answer (`UpstreamReply`).
    """

    def __init__(self, kind: str, detail: str, *, is_stale: bool = False) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail
        self.is_stale = is_stale
        self.proxy_id: str | None = None
        self.host: int | None = None
        self.is_of_host = False


class StillSilent(BaseException):
    """Thrown into a request that waits for the upstream, so that it can tell its client that it still does.

    The wait may be begun again: nothing that arrives meanwhile is lost. A `BaseException`, so that nobody
    takes it for an error of the upstream.
    """


class ClientGone(BaseException):
    """Thrown into a request that waits for the upstream once its client has left for good.

    A `BaseException`, like `gevent.Timeout`: transports clean up after it and nobody mistakes it for an
    upstream error. `is_unsent` says that the upstream had not been given anything of the request yet; `host`
    is the position of the upstream host that was waited for, where there are several.
    """

    is_unsent = False
    host: int | None = None
