"""Answers that tell URLs of the upstream's own: they are read whole, and tell the proxy's instead."""

from collections.abc import Callable, Mapping

from app.exchange.attempts import Served
from app.exchange.exchange import ClientCall
from app.upstream.transport import Passed, UpstreamFailure, UpstreamReply
from app.wires.content_coding import CodingError
from app.wires.formats.batches import MAX_BATCH_DOCUMENT, with_results_url

_FRAMING = ("content-length", "transfer-encoding")


class WholeReply:
    """A reply that has been read to its end; another body takes the place of its own."""

    def __init__(self, reply: UpstreamReply, body: bytes) -> None:
        self._reply = reply
        self.status = reply.status
        self.proxy_id = reply.proxy_id
        self.host = reply.host
        self.is_of_host = reply.is_of_host
        named = {name.lower(): value for name, value in reply.headers.items()}
        kept = {name: value for name, value in named.items() if name not in _FRAMING}
        self.headers: Mapping[str, str] = {**kept, "content-length": str(len(body))}

    def read(self) -> bytes:
        """Return nothing more."""
        return b""

    def read_passing(self, pass_on: Callable[[bytes], Passed]) -> bytes | None:
        """Return nothing more."""
        return b""

    def close(self) -> None:
        """Give the connection back."""
        self._reply.close()


def with_own_urls(call: ClientCall, served: Served) -> Served:
    """Read the document of a batch, which is short, and have it name the proxy's URL for the results.

    The upstream's own would have clients send their keys there, past the meter. Raises `CodingError` for one
    that cannot be read.
    """
    reply, pieces, size = served.reply, [served.first], len(served.first)
    if reply.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise CodingError("it came compressed though it was not asked for")
    try:
        while data := reply.read():
            pieces.append(data)
            size += len(data)
            if size > MAX_BATCH_DOCUMENT:
                raise CodingError("it is too long for the document of a batch")
    except UpstreamFailure as failure:
        raise CodingError(f"it broke off: {failure}") from None
    body = with_results_url(b"".join(pieces), call.scheme, call.headers.get("host"))
    return Served(served.lease, WholeReply(reply, body), body)
