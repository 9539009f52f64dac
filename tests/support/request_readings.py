"""The same bytes read as requests by gunicorn and by us, so that the two can be compared."""

from collections.abc import Iterable
from typing import Any

from gunicorn.config import Config
from gunicorn.http import RequestParser, wsgi

from app.server.http_request import PlainRequest, RequestReader, RequestReading
from app.server.request_head import headers_of

LISTENER, PEER = ("0.0.0.0", 8005), ("127.0.0.1", 4711)
OBJECTS = {
    *("wsgi.input", "wsgi.errors", "wsgi.early_hints", "wsgi.multithread", "gunicorn.socket"),
    "weir.headers",
}


class Pieces:
    """A socket that has these bytes, in these pieces."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = [piece for piece in pieces if piece]
        self.sent = b""

    def recv(self, size: int) -> bytes:
        if not self._pieces:
            return b""
        piece = self._pieces.pop(0)
        if len(piece) > size:
            self._pieces.insert(0, piece[size:])
        return piece[:size]

    def send(self, data: bytes) -> int:
        self.sent += data
        return len(data)


def config(**settings: Any) -> Config:
    cfg = Config()
    for name, value in settings.items():
        cfg.set(name, value)
    return cfg


def described(request: Any, environ: dict[str, Any]) -> dict[str, Any]:
    """All that a request means, its body included."""
    return {
        "environ": {key: value for key, value in environ.items() if key not in OBJECTS},
        "body": environ["wsgi.input"].read(),
        "closes": request.should_close(),
        "headers": sorted(request.headers),
        "by name": headers_of(environ),
        "line": (request.method, request.uri, request.path, request.query, request.fragment, request.version),
        "scheme": request.scheme,
        "proxy": request.proxy_protocol_info,
    }


def reading(requests: Any, socket: Pieces, cfg: Config, peer: Any) -> tuple[list[Any], Any, bytes]:
    """What comes of a connection: its requests, how it ended, and what was sent meanwhile."""
    seen: list[Any] = []
    try:
        while (request := requests()) is not None:
            if isinstance(request, PlainRequest):
                environ = request.environ
            else:
                _, environ = wsgi.create(request, socket, peer, LISTENER, cfg)
            seen.append(described(request, environ))
            if request.should_close():
                break
    except Exception as error:  # noqa: BLE001  the kind of it is what is compared
        return seen, None if isinstance(error, StopIteration) else type(error), socket.sent
    return seen, None, socket.sent


def by_gunicorn(pieces: list[bytes], cfg: Config, peer: Any = PEER) -> tuple[list[Any], Any, bytes]:
    socket = Pieces(pieces)
    parser = RequestParser(cfg, socket, peer)
    return reading(lambda: next(parser), socket, cfg, peer)


def by_us(pieces: list[bytes], cfg: Config, peer: Any = PEER) -> tuple[list[Any], Any, bytes]:
    socket = Pieces(pieces)
    reader = RequestReading(cfg).reader(socket, LISTENER, peer)
    seen, end, sent = reading(reader.next_request, socket, cfg, peer)
    for item in seen:
        item["proxy"] = item["proxy"] or None  # gunicorn has both for none
    return seen, end, sent


def reader_of(wire: bytes, cfg: Config | None = None, peer: Any = PEER) -> RequestReader:
    return RequestReading(cfg or config()).reader(Pieces([wire]), LISTENER, peer)
