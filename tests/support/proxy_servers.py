"""Real proxies on the loopback, in threads: HTTP (CONNECT and absolute-form) and SOCKS5, and a TLS front."""

import contextlib
import ipaddress
import socket
import ssl
import struct
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from app.upstream.proxy_choice import ProxyEndpoint, ProxyKind
from simulator.launcher import free_port

_SIZE = 65536
_REFUSALS = {"no_target": ("502 Bad Gateway", 5), "denied": ("403 Forbidden", 2)}
"""Faults that are told to the client: as an HTTP status, as a SOCKS5 reply."""


class _Server:
    """Serves every connection in a thread; `stop` and `start` again keep the port."""

    def __init__(self) -> None:
        self.port = free_port()
        self.connections = 0
        self.bytes_up = 0
        """How much clients sent through tunnels."""
        self._listener: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self.start()

    def start(self) -> Self:
        """Listen."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Refuse connections and drop the open ones. Idempotent."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self.drop()

    def drop(self) -> None:
        """Close the open connections."""
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _count(self, size: int) -> None:
        self.bytes_up += size

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.add(connection)
            threading.Thread(target=self._run, args=(connection,), daemon=True).start()

    def _run(self, connection: socket.socket) -> None:
        try:
            self.serve(connection)
        except (OSError, ValueError, IndexError):
            pass
        finally:
            self._open.discard(connection)
            connection.close()

    def serve(self, connection: socket.socket) -> None:
        """Serve one connection; it is closed afterwards."""
        raise NotImplementedError

    def splice(self, one: socket.socket, other: socket.socket) -> None:
        """Pass bytes both ways until either side ends."""
        self._open.add(other)
        back = threading.Thread(target=_pump, args=(other, one), daemon=True)
        back.start()
        _pump(one, other, self._count)
        back.join()
        self._open.discard(other)
        other.close()


def _pump(source: socket.socket, target: socket.socket, count: Callable[[int], None] | None = None) -> None:
    try:
        while data := source.recv(_SIZE):
            if count is not None:
                count(len(data))
            target.sendall(data)
    except (OSError, ValueError):
        pass
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


class SlowMongo(_Server):
    """A way to the MongoDB behind a Unix socket on which every reply takes `delay_s`."""

    def __init__(self, socket_path: str, delay_s: float) -> None:
        self._socket_path = socket_path
        self._delay_s = delay_s
        super().__init__()

    @property
    def uri(self) -> str:
        """The URI of this way."""
        return f"mongodb://127.0.0.1:{self.port}/?directConnection=true"

    def serve(self, connection: socket.socket) -> None:
        """Pass requests on at once and replies later."""
        with socket.socket(socket.AF_UNIX) as server:
            server.connect(self._socket_path)
            wait = lambda _size: time.sleep(self._delay_s)  # noqa: E731
            back = threading.Thread(target=_pump, args=(server, connection, wait), daemon=True)
            back.start()
            _pump(connection, server)
            back.join()


class _Proxy(_Server):
    """A proxy that may want credentials, and may be broken in several ways."""

    kind: ProxyKind
    usual: bytes
    """What it says once it is connected to the upstream, as a rule."""

    def __init__(self, credentials: tuple[str, str] | None = None) -> None:
        self.credentials = credentials
        self.fault = ""
        """What is wrong with it.

        `mute`: says nothing; `garbage`: speaks another protocol; `denied`: forbids the upstream;
        `no_target`: does not get through to it.
        """
        self.seen: list[str] = []
        """What was asked for: `host:port`, or the URL of a request that was not tunnelled."""
        self.established: Iterable[bytes] = (self.usual,)
        """What it says once it is connected to the upstream, in pieces."""
        self.pause_s = 0.0
        """How long it takes before each further piece."""
        super().__init__()

    def endpoint(self, username: str | None = None, password: str | None = None) -> ProxyEndpoint:
        """How to reach it, with the right credentials unless others are given."""
        if username is None and self.credentials is not None:
            username, password = self.credentials
        return ProxyEndpoint(self.kind, "127.0.0.1", self.port, username, password)

    def serve(self, connection: socket.socket) -> None:
        """Break as told, or do the work."""
        if self.fault == "mute":
            connection.recv(_SIZE)
            connection.recv(_SIZE)
        elif self.fault == "garbage":
            connection.recv(_SIZE)
            connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
        else:
            self.proxy(connection)

    def proxy(self, connection: socket.socket) -> None:
        """Do the work."""
        raise NotImplementedError

    def establish(self, connection: socket.socket) -> None:
        """Say that the upstream is at the other end."""
        for number, piece in enumerate(self.established):
            if number:
                time.sleep(self.pause_s)
            connection.sendall(piece)


class HttpProxy(_Proxy):
    """CONNECT for tunnels, and requests with a whole URL."""

    kind = ProxyKind.HTTP
    usual = b"HTTP/1.1 200 Connection established\r\n\r\n"

    def proxy(self, connection: socket.socket) -> None:
        """Tunnel, or forward request after request to the host of the first one."""
        reader = connection.makefile("rb")
        target: socket.socket | None = None
        try:
            while head := _read_head(reader):
                method, url, _ = head[0].split(" ")
                self.seen.append(url)
                if not self._is_allowed(head):
                    _answer(connection, "407 Proxy Authentication Required")
                    return
                if self.fault in _REFUSALS:
                    _answer(connection, _REFUSALS[self.fault][0])
                    return
                if method == "CONNECT":
                    with _connect(url) as tunnel:
                        self.establish(connection)
                        self.splice(connection, tunnel)
                    return
                host, _, path = url.removeprefix("http://").partition("/")
                if target is None:
                    target = _connect(host)
                    back = threading.Thread(target=_pump, args=(target, connection), daemon=True)
                    back.start()
                kept = [line for line in head[1:] if not line.lower().startswith("proxy-")]
                target.sendall("\r\n".join([f"{method} /{path} HTTP/1.1", *kept, "", ""]).encode("latin-1"))
                target.sendall(reader.read(_length(head)))
        finally:
            reader.close()
            if target is not None:
                with contextlib.suppress(OSError):
                    target.shutdown(socket.SHUT_RDWR)
                back.join()
                target.close()

    def _is_allowed(self, head: list[str]) -> bool:
        if self.credentials is None:
            return True
        given = [line.partition(": ")[2] for line in head if line.lower().startswith("proxy-authorization:")]
        return [b64decode(value.removeprefix("Basic ")).decode() for value in given] == [
            ":".join(self.credentials)
        ]


def _connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)))


def _read_head(reader) -> list[str]:
    lines = []
    while line := reader.readline().decode("latin-1").rstrip("\r\n"):
        lines.append(line)
    return lines


def _length(head: list[str]) -> int:
    return sum(int(line.partition(":")[2]) for line in head if line.lower().startswith("content-length:"))


def _answer(connection: socket.socket, status: str) -> None:
    connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())


class Socks5Proxy(_Proxy):
    """RFC 1928 CONNECT, with user name and password (RFC 1929) where there are credentials."""

    kind = ProxyKind.SOCKS5
    usual = b"\x05\x00\x00\x01" + bytes(6)

    def proxy(self, connection: socket.socket) -> None:
        """Negotiate, connect, pass bytes on."""
        reader = connection.makefile("rb")
        _, count = reader.read(2)
        methods = reader.read(count)
        wanted = 0 if self.credentials is None else 2
        if wanted not in methods:
            connection.sendall(b"\x05\xff")
            return
        connection.sendall(bytes((5, wanted)))
        if wanted and not self._is_allowed(reader, connection):
            return
        _, command, _, kind = reader.read(4)
        host = socket.inet_ntoa(reader.read(4)) if kind == 1 else reader.read(reader.read(1)[0]).decode()
        (port,) = struct.unpack("!H", reader.read(2))
        self.seen.append(f"{host}:{port}")
        if self.fault in _REFUSALS or command != 1:
            connection.sendall(bytes((5, _REFUSALS[self.fault][1], 0, 1, 0, 0, 0, 0, 0, 0)))
            return
        with socket.create_connection((host, port)) as target:
            self.establish(connection)
            self.splice(connection, target)

    def _is_allowed(self, reader, connection: socket.socket) -> bool:
        reader.read(1)
        given = tuple(reader.read(reader.read(1)[0]).decode() for _ in range(2))
        is_allowed = given == self.credentials
        connection.sendall(b"\x01\x00" if is_allowed else b"\x01\x01")
        return is_allowed


class TlsFront(_Server):
    """TLS before a plain server at `port` of the loopback; `ca_file` is what to trust."""

    def __init__(self, backend_port: int, directory: Path) -> None:
        self._backend_port = backend_port
        self.ca_file = str(_make_certificate(directory))
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.ca_file)
        super().__init__()

    @property
    def url(self) -> str:
        """Base URL without a path."""
        return f"https://127.0.0.1:{self.port}"

    def serve(self, connection: socket.socket) -> None:
        """Decrypt, pass on: one record in one thread and the other way in another is fine with OpenSSL."""
        with self._context.wrap_socket(connection, server_side=True) as inner:
            self._open.add(inner)
            self.splice(inner, socket.create_connection(("127.0.0.1", self._backend_port)))
            self._open.discard(inner)


def _make_certificate(directory: Path) -> Path:
    """A certificate of 127.0.0.1 that is its own authority, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    path = directory / "upstream.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(private + certificate.public_bytes(Encoding.PEM))
    return path


PROXIES: dict[str, Callable[..., HttpProxy | Socks5Proxy]] = {"http": HttpProxy, "socks5": Socks5Proxy}
"""Both sorts, for tests of what they have in common."""
