"""Asking the upstream itself something, in the background or for a command: short answers, read whole."""

from collections.abc import Iterable

from app.upstream.host_choice import is_front_page
from app.upstream.transport import ProviderKey, Upstream, UpstreamFailure, UpstreamRequest

_OK = 200


class NotTold(Exception):
    """The upstream does not say; the message is one line for an operator, without keys and hosts."""


def ask(upstream: Upstream, key: ProviderKey, question: UpstreamRequest, *, most: int) -> bytes:
    """Return the body of the answer, at most `most` bytes; raises `NotTold`."""
    path = question.path
    try:
        reply = upstream.send(question, key)
        try:
            if is_front_page(reply.status, reply.headers):
                raise NotTold(f"something in front of it answers {path} with a web page ({reply.status})")
            if reply.status != _OK:
                raise NotTold(f"it answers {path} with status {reply.status}")
            pieces, size = [], 0
            while piece := reply.read():
                pieces.append(piece)
                size += len(piece)
                if size > most:
                    raise NotTold(f"its answer to {path} has more than {most} bytes")
        finally:
            reply.close()
    except UpstreamFailure as failure:
        raise NotTold(f"{path}: {failure}") from None
    return b"".join(pieces)


def ask_any(
    upstreams: Iterable[Upstream], key: ProviderKey, question: UpstreamRequest, *, most: int
) -> bytes:
    """Ask one host after the other, as `ask` does, until one tells; raises `NotTold` with all reasons."""
    problems = []
    for upstream in upstreams:
        try:
            return ask(upstream, key, question, most=most)
        except NotTold as error:
            problems.append(str(error))
    raise NotTold("; ".join(dict.fromkeys(problems)))
