"""What answers look like on the wire: as gunicorn writes them, but in fewer writes."""

import re
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http.body import Body, LengthReader
from gunicorn.http.errors import InvalidResponseHeader
from gunicorn.http.unreader import IterUnreader
from gunicorn.http.wsgi import Response
from hypothesis import given
from hypothesis import strategies as st

from app.server.http_response import ClientResponse

CFG = Config()
TYPE = [("content-type", "text/event-stream")]


class Sent:
    """A socket that keeps what was sent, write by write."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []

    def sendall(self, data: bytes) -> None:
        self.writes.append(bytes(data))


def request(
    method: str = "POST", version: tuple[int, int] = (1, 1), *, closes: bool = False, unread: int = 0
) -> Any:
    body = Body(LengthReader(IterUnreader([]), unread))
    return SimpleNamespace(method=method, version=version, body=body, should_close=lambda: closes)


def answered(
    kind: type[Response], asked: Any, status: str, headers: list[Any], pieces: list[Any]
) -> tuple[list[bytes], Any, Any]:
    """The writes, whether the connection ends, and what went wrong."""
    socket = Sent()
    response = kind(asked, socket, CFG)
    try:
        response.start_response(status, headers)
        for piece in pieces:
            response.write(piece)
        response.close()
    except Exception as error:  # noqa: BLE001  the kind of it is what is compared
        return socket.writes, None, type(error)
    return socket.writes, response.should_close(), None


def on_the_wire(writes: list[bytes]) -> bytes:
    return re.sub(rb"(?<=\r\nDate: )[^\r]*", b"", b"".join(writes), count=1)


names = st.one_of(
    st.sampled_from(
        [
            *(
                "Content-Type",
                "content-length",
                "Content-Length",
                "X-A",
                "Set-Cookie",
                "Connection",
                "connection",
            ),
            *(
                "Transfer-Encoding",
                "Upgrade",
                "Keep-Alive",
                "TE",
                "",
                "a b",
                "a\r\nb",
                "x\n",
                "é",
                b"X-B",
                5,
                None,
            ),
        ]
    ),
    st.text(max_size=5),
)
values = st.one_of(
    st.sampled_from(
        [
            "3",
            "0",
            "5",
            " 7 ",
            "x",
            "-1",
            "close",
            "upgrade",
            "websocket",
            "a\r\nX: y",
            "a\n",
            "é",
            "\t a ",
            "\x7f",
            b"1",
            3,
        ]
    ),
    st.text(max_size=5),
)


@given(
    st.sampled_from(["GET", "HEAD", "POST"]),
    st.sampled_from([(1, 1), (1, 0)]),
    st.booleans(),
    st.sampled_from(
        ["200 OK", "204 No Content", "304 Not Modified", "404 Not Found", "500", "200 é", "2", "200 a\r\nb"]
    ),
    st.lists(st.tuples(names, values), max_size=4),
    st.lists(st.sampled_from([b"", b"a", b"abc", b"x" * 70_000, bytearray(b"abc"), "text"]), max_size=4),
)
def test_the_same_bytes_as_gunicorn_and_the_same_refusals(
    method: str, version: tuple[int, int], closes: bool, status: str, headers: list[Any], pieces: list[Any]
) -> None:
    asked = request(method, version, closes=closes)

    ours = answered(ClientResponse, asked, status, headers, pieces)
    theirs = answered(Response, asked, status, headers, pieces)

    assert on_the_wire(ours[0]) == on_the_wire(theirs[0])
    assert ours[1:] == theirs[1:]


def test_a_plain_answer_is_one_write() -> None:
    writes, closes, _ = answered(ClientResponse, request(), "200 OK", [("Content-Length", "2")], [b"{}"])

    assert len(writes) == 1
    assert writes[0].endswith(b"\r\n\r\n{}")
    assert not closes


def test_each_piece_of_a_stream_is_written_by_itself_the_first_with_the_head() -> None:
    writes, _, _ = answered(ClientResponse, request(), "200 OK", TYPE, [b"data: 1\n\n", b"data: 2\n\n"])

    assert writes[0].endswith(b"\r\n\r\n9\r\ndata: 1\n\n\r\n")
    assert writes[1:] == [b"9\r\ndata: 2\n\n\r\n", b"0\r\n\r\n"]


def test_a_large_first_piece_is_not_copied_behind_the_head() -> None:
    writes, _, _ = answered(
        ClientResponse, request(), "200 OK", [("Content-Length", "100000")], [b"x" * 100_000]
    )

    assert [len(data) for data in writes[1:]] == [100_000]


def test_an_answer_that_fails_has_no_last_chunk() -> None:
    socket = Sent()
    response = ClientResponse(request(), socket, CFG)
    response.start_response("200 OK", TYPE)
    response.write(b"data: 1\n\n")

    assert not b"".join(socket.writes).endswith(b"0\r\n\r\n")


@pytest.mark.parametrize(("unread", "closes"), [(65_536, False), (65_537, True)])
def test_a_body_that_nobody_read_ends_the_connection_when_it_is_long(unread: int, closes: bool) -> None:
    writes, ends, _ = answered(
        ClientResponse, request(unread=unread), "401 UNAUTHORIZED", [("Content-Length", "0")], []
    )

    assert ends is closes
    assert (b"Connection: close\r\n" in writes[0]) is closes


def test_a_header_cannot_begin_another() -> None:
    response = ClientResponse(request(), Sent(), CFG)

    with pytest.raises(InvalidResponseHeader):
        response.start_response("200 OK", [("X-A", "b\r\nX-Injected: 1")])
