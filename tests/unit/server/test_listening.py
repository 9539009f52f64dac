"""Why an address cannot be had, in one line."""

import errno
import os
import socket

import pytest

from app.common.errors import SettingsError
from app.server import listening


def test_a_port_is_bound_and_not_listened_on_yet() -> None:
    (bound,) = listening.bind([("127.0.0.1", 0)])
    with bound, socket.socket() as client:
        assert client.connect_ex(bound.getsockname()) == errno.ECONNREFUSED


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_who_listens_on_a_port_is_named(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as other:
        port = other.getsockname()[1]
        with pytest.raises(
            SettingsError, match=rf"^PORT: {port} is in use by process {os.getpid()} \(.+\): "
        ):
            listening.bind([(host, port)])


def test_a_port_that_nobody_is_seen_to_use_is_named_all_the_same() -> None:
    refusal = listening.refusal("127.0.0.1", 1, OSError(errno.EADDRINUSE, "in use"))
    assert str(refusal) == "PORT: 1 is in use: stop that, or set another PORT"


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.EACCES, "PORT: 80 takes rights that this user has not: set one from 1024 on"),
        (errno.EADDRNOTAVAIL, "HOST: a.host is no address of this machine: takes 127.0.0.1, "),
        (socket.EAI_NONAME, "HOST: a.host cannot be listened on (why): takes 127.0.0.1, "),
    ],
)
def test_other_reasons_name_the_variable_at_fault(number: int, says: str) -> None:
    assert str(listening.refusal("a.host", 80, OSError(number, "why"))).startswith(says)
