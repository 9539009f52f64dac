"""What the transport looks at over TLS: there bytes can wait in two places more."""

import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from app.upstream.http1_adapter import Http1Adapter
from app.upstream.transport import ClientGone, Passed

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n%s"
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"


class TlsServer:
    """Sends the next of `answers` for every request, each list item in a TLS record of its own."""

    def __init__(self, certificate: Path) -> None:
        self.answers: list[list[bytes]] = []
        self.connections = 0
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}/"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(plain,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        try:
            with self._context.wrap_socket(plain, server_side=True) as connection:
                while connection.recv(65536):
                    for record in self.answers.pop(0):
                        connection.sendall(record)
        except OSError:
            pass

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    built = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    pem = serialization.Encoding.PEM
    plain = serialization.NoEncryption()
    path.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain) + built.public_bytes(pem)
    )
    return path


@pytest.fixture
def server(certificate: Path) -> Iterator[TlsServer]:
    server = TlsServer(certificate)
    yield server
    server.stop()


@pytest.fixture
def adapter() -> Iterator[Http1Adapter]:
    adapter = Http1Adapter()
    yield adapter
    adapter.close()


def body_of(adapter: Http1Adapter, server: TlsServer, certificate: Path) -> bytes:
    request = requests.Request("GET", server.url).prepare()
    response = adapter.send(request, stream=True, timeout=(60, 60), verify=str(certificate))
    raw = response.raw
    data = b"".join(iter(raw.read, b""))
    raw.close()
    return data


def test_a_connection_is_used_again(adapter: Http1Adapter, server: TlsServer, certificate: Path) -> None:
    server.answers = [[ANSWER % b"one."], [HINTS, ANSWER % b"two."], [HINTS + ANSWER % b"tri."]]
    assert [body_of(adapter, server, certificate) for _ in range(3)] == [b"one.", b"two.", b"tri."]
    assert server.connections == 1


@pytest.mark.parametrize("is_one_record", [True, False])
def test_bytes_beyond_an_answer_close_it(
    adapter: Http1Adapter, server: TlsServer, certificate: Path, is_one_record: bool
) -> None:
    records = [ANSWER % b"mine", ANSWER % b"not."]
    server.answers = [[b"".join(records)] if is_one_record else records, [ANSWER % b"next"]]
    assert body_of(adapter, server, certificate) == b"mine"
    assert body_of(adapter, server, certificate) == b"next"
    assert server.connections == 2


def test_a_client_that_leaves_during_the_handshake_has_the_connection_closed(
    adapter: Http1Adapter, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(_: object) -> None:
        raise ClientGone

    monkeypatch.setattr(ssl.SSLSocket, "do_handshake", leave)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        request = requests.Request("GET", f"https://127.0.0.1:{listener.getsockname()[1]}/").prepare()
        with pytest.raises(ClientGone) as caught:
            adapter.send(request, timeout=(60, 60), verify=str(certificate))
        assert caught.value.is_unsent
        far, _ = listener.accept()
        with far:
            far.settimeout(60)
            assert far.recv(1) == b""  # although the exception still holds on to all its frames


def test_bytes_pass_from_within_the_event_loop(
    adapter: Http1Adapter, server: TlsServer, certificate: Path
) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    # Records larger than one read, several in one, and one cut in two.
    sizes = [5, 100_000, 1, 70_000, 16_384, 2]
    chunks = [bytes([65 + number]) * size for number, size in enumerate(sizes)]
    records = [b"%x\r\n%b\r\n" % (len(data), data) for data in chunks]
    server.answers = [
        [head, *records[:2], records[2] + records[3], records[4][:9], records[4][9:], records[5]]
    ]
    request = requests.Request("GET", server.url).prepare()
    raw = adapter.send(request, stream=True, timeout=(60, 60), verify=str(certificate)).raw
    taken: list[bytes] = []

    def take(data: bytes) -> Passed:
        taken.append(data)
        return Passed.PARTLY if sum(map(len, taken)) == sum(sizes) else Passed.ON

    assert raw.read_passing(take) is None
    assert b"".join(taken) == b"".join(chunks)
    raw.close()
