"""The product with no more rights than docs/scaling.md says it needs, over TLS with a CA of one's own."""

import datetime
import ipaddress
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pymongo import MongoClient

from app.persistence.store_watch import StoreWatch
from app.store.connection import connect
from drill.replica_set import NAME, ReplicaSet
from simulator.launcher import ROOT, wait_until
from tests.support.lab import CHAT, Lab
from tests.support.metrics_page import ask_json
from tests.support.raw_http import RawConnection
from tests.support.upstream_process import UpstreamProcess
from tests.support.weir_process import CLIENT_KEY, WeirProcess

_PEM = serialization.Encoding.PEM
_ROLE = re.compile(r"db\.createRole\((\{.*?\n\})\)", re.DOTALL)


def documented_role() -> dict[str, Any]:
    """The role as the documentation has it."""
    found = _ROLE.search((ROOT / "docs" / "scaling.md").read_text(encoding="utf-8"))
    assert found is not None
    role: dict[str, Any] = json.loads(found[1])
    return role


class Authority:
    """A CA, and certificates by it: `ca.pem`, `server.pem`."""

    def __init__(self, directory: Path) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named("weir test ca")
        self.ca, self.server = directory / "ca.pem", directory / "server.pem"
        is_ca = (x509.BasicConstraints(ca=True, path_length=None), True)
        self.ca.write_bytes(self._signed(self._name, self._key.public_key(), is_ca).public_bytes(_PEM))
        key = ec.generate_private_key(ec.SECP256R1())
        loopback = (x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        certificate = self._signed(_named("mongod"), key.public_key(), loopback)
        plain = key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        self.server.write_bytes(plain + certificate.public_bytes(_PEM))

    def _signed(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, extension: tuple[x509.ExtensionType, bool]
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        day = datetime.timedelta(days=1)
        builder = x509.CertificateBuilder(
            self._name, subject, key, x509.random_serial_number(), now - day, now + day
        )
        return builder.add_extension(*extension).sign(self._key, hashes.SHA256())


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ReplicaSet, str]]:
    """A set that asks for TLS and a password, and the options a client needs."""
    directory = tmp_path_factory.mktemp("secured")
    authority = Authority(directory)
    key_file = directory / "set.key"
    key_file.write_text("c2V0LWtleS1vZi10ZXN0cw==")
    key_file.chmod(0o600)
    tls = ("--tlsMode", "requireTLS", "--tlsCertificateKeyFile", str(authority.server))
    tls += ("--tlsCAFile", str(authority.ca), "--tlsAllowConnectionsWithoutCertificates")
    options = (*tls, "--auth", "--keyFile", str(key_file))
    client = {"tls": True, "tlsCAFile": str(authority.ca)}
    with ReplicaSet(directory / "set", members=1, election_s=1.0, options=options, **client) as servers:
        root = {"roles": ["root"], "pwd": "root-password"}
        servers.members[0].client.admin.command("createUser", "root", **root)
        admin = servers.uri.replace("mongodb://", "mongodb://root:root-password@")
        with MongoClient[dict[str, Any]](f"{admin}&authSource=admin", **client) as connection:
            role = documented_role()
            connection["fproxy"].command("createRole", role.pop("role"), **role)
            connection["fproxy"].command("createUser", "weir", pwd="p/w:d", roles=["weir"])
            restoring = [{"role": name, "db": "restored"} for name in ("readWrite", "dbAdmin")]
            connection["fproxy"].command("createUser", "restorer", pwd="p/w:d", roles=restoring)
        yield servers, f"replicaSet={NAME}&tls=true&tlsCAFile={authority.ca}"


def uri(store: tuple[ReplicaSet, str], password: str, user: str = "weir") -> str:
    servers, options = store
    return f"mongodb://{user}:{password}@{servers.members[0].address}/fproxy?{options}"


def flask(weir: WeirProcess, *arguments: str, **environment: str) -> str:
    """What a command prints; it has to succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "flask", *arguments],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", **weir.environment, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_documented_role_is_all_that_is_needed(
    store: tuple[ReplicaSet, str], upstream: UpstreamProcess, tmp_path: Path
) -> None:
    with WeirProcess(tmp_path / "weir", upstream.url, MONGODB_URI=uri(store, "p%2Fw%3Ad")) as weir:
        lab = Lab(weir, upstream)
        flask(weir, "init")
        key = json.loads(flask(weir, "users", "add", "ann", "--credits", "1", "--json"))["apiKey"]
        for secret in (CLIENT_KEY, key):
            with RawConnection(weir.url) as connection:
                headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
                connection.request("POST", CHAT, headers, lab.body(CHAT, "out=5"))
                response = connection.read_response()
            assert response.status == 200
            assert weir.wait_record(response.request_id)["outcome"] == "ok"
        doctor = flask(weir, "doctor")
        assert "reads and writes" in doctor
        assert "not authorized" not in doctor
        assert "Everything agrees." in flask(weir, "verify")
        wait_until(lambda: ask_json(weir, "/ready")["store"] == "ok", what="the store to be found well")
        flask(weir, "backup", str(tmp_path / "weir.backup"))
        elsewhere = {"MONGODB_URI": uri(store, "p%2Fw%3Ad", "restorer"), "MONGODB_DB_NAME": "restored"}
        flask(weir, "init", **elsewhere)
        flask(weir, "restore", str(tmp_path / "weir.backup"), **elsewhere)
        assert "Everything agrees." in flask(weir, "verify", **elsewhere)
        wait_until(lambda: weir.database["admin_audit"].index_information().keys() > {"_id_"}, what="indexes")
        assert "not authorized" not in weir.log
        assert weir.log_messages("ERROR") == []


def test_a_wrong_password_is_said_and_never_shown(store: tuple[ReplicaSet, str]) -> None:
    database = connect(uri(store, "wrong-password"), "fproxy")
    watch = StoreWatch(database, "w1")
    # A server that has no time for a moment is another reason.
    wait_until(lambda: watch.look() and "Authentication failed" in watch.reason, what="the refusal")
    assert "wrong-password" not in watch.reason
    database.client.close()
