"""A thousand secrets put in everywhere, and looked for everywhere they must not come out."""

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

import bson
import pytest

from simulator import Script
from simulator.launcher import ROOT, command_line, process_tree, wait_until
from tests.support import sse
from tests.support.lab import CHAT, MESSAGES, Lab
from tests.support.metrics_page import ask
from tests.support.raw_http import RawConnection
from tests.support.upstream_process import UpstreamProcess
from tests.support.users import add_user
from tests.support.weir_process import WeirProcess

MARK = re.compile(rb"cnry[a-z]+[0-9]{4}x[0-9a-f]{8}")
# What an upstream says of a failure is kept in words, and no secret.
SAID = re.compile(rb"cnryanswertext[0-9]{4}x[0-9a-f]{8}")
ADMIN_TOKEN = "e2e-admin-token-of-tests"
ROUNDS = 25


class Canaries:
    """Secrets that are told by their looks; each is used once."""

    def __init__(self) -> None:
        self._random = Random(20261123)
        self.made: list[str] = []

    def make(self, place: str, prefix: str = "sk-") -> str:
        secret = f"cnry{place}{len(self.made):04d}x{self._random.randbytes(4).hex()}"
        self.made.append(secret)
        return prefix + secret


@pytest.fixture(scope="module")
def canaries() -> Canaries:
    return Canaries()


@pytest.fixture(scope="module")
def talkative_weir(
    upstream: UpstreamProcess, tmp_path_factory: pytest.TempPathFactory, canaries: Canaries
) -> Iterator[WeirProcess]:
    """It logs all it can."""
    keys, management_key = [canaries.make("upstreamkey") for _ in range(8)], canaries.make("managementkey")
    tokens = {key: {"used_fee": 1} for key in (*keys, *(canaries.make("foreignkey") for _ in range(8)))}
    upstream.account(management_key=management_key, balance="5", tokens=tokens)
    with WeirProcess(
        tmp_path_factory.mktemp("talkative"),
        upstream.url,
        OHMYGPT_API_KEYS=",".join(keys),
        OHMYGPT_MANAGEMENT_KEY=management_key,
        PROXY_API_KEY=canaries.make("proxykey"),
        SECRET_KEY=canaries.make("secretkey"),
        ADMIN_TOKEN=ADMIN_TOKEN,
        LOG_LEVEL="debug",
        CLIENT_BODY_TIMEOUT_S="2",
        UPSTREAM_READ_TIMEOUT_S="30",
    ) as process:
        yield process


def flask(weir: WeirProcess, *command: str, stdin: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flask", *command],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", **weir.environment},
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert not MARK.search((done.stdout + done.stderr).encode())


def ask_raw(weir: WeirProcess, wire: bytes) -> bytes:
    """All that comes back for these bytes, of which the last request ends the connection."""
    with RawConnection(weir.url) as connection:
        connection.send(wire)
        return connection.read_response().body


def request(weir: WeirProcess, path: str, body: bytes, **headers: str) -> int:
    with RawConnection(weir.url) as connection:
        connection.request("POST", path, headers, body)
        return connection.read_response().status


def test_no_secret_comes_out_anywhere(
    talkative_weir: WeirProcess, upstream: UpstreamProcess, canaries: Canaries
) -> None:
    weir, make = talkative_weir, canaries.make
    lab = Lab(weir, upstream)
    users = [add_user(weir, credits="5") for _ in range(2)]
    flask(
        weir, "proxies", "add", "p1", "--type", "http", "--host", "127.0.0.1", "--port", "1",
        "--username", "u", "--password-stdin", stdin=make("proxypassword", "") + "\n",
    )  # fmt: skip
    flask(weir, "keys", "import", "-", stdin="".join(f"k{n}|{make('poolkey')}\n" for n in range(9)))
    flask(weir, "backup-keys", "import", "-", stdin="".join(f"b{n}|{make('backupkey')}\n" for n in range(9)))
    for number in range(ROUNDS):
        play_round(weir, lab, canaries, users[number % 2].key, number)
    wait_until(lambda: weir.record_count() >= ROUNDS * 5, what="the records")
    account = {"_id": "account", "keys": {"$exists": True}}
    wait_until(lambda: weir.database["ohmygpt_account"].find_one(account), what="the account to be read")
    told = weir.database["ohmygpt_account"].find_one(account) or {}
    assert (len(told["keys"]), told["unmatchedKeys"]) == (8, 8)
    pages = read_pages(weir)
    databases = {name: dump(weir, name) for name in weir.database.list_collection_names()}
    log, data_dir = weir.log, weir.data_dir
    assert len(canaries.made) >= 1000

    commands = b"".join(map(command_line, process_tree(weir.pid)))
    keys = [user.key.encode() for user in users]
    found: dict[str, bytes] = {"output": log.encode(), "command lines": commands, **pages, **databases}
    found |= read_files(data_dir)
    for place in found.keys() - {"output", "command lines"}:
        found[place] = SAID.sub(b"", found[place])
    leaks = {place: sorted(set(MARK.findall(content))) for place, content in found.items()}
    assert {place: marks for place, marks in leaks.items() if marks} == {}
    for key in keys:
        assert [place for place, content in found.items() if key in content] == []
    assert [place for place, content in found.items() if ADMIN_TOKEN.encode() in content] == []


def play_round(weir: WeirProcess, lab: Lab, canaries: Canaries, key: str, number: int) -> None:
    """Everything that can hold a secret, in requests that end in all kinds of ways."""
    make, path = canaries.make, (CHAT, MESSAGES)[number % 2]
    auth = {"Authorization": f"Bearer {key}"}
    prompt = [{"role": "user", "content": make("prompt", "")} for _ in range(5)]
    noted = {"Cookie": f"session={make('cookie', '')}", **{f"X-{n}": make("header", "") for n in range(8)}}
    query = f"{path}?api_key={make('query')}&token={make('query', '')}"
    assert request(weir, query, lab.body(path, "out=2", messages=prompt), **auth, **noted) == 200

    status = (400, 401, 402, 403, 404, 429, 500, 503)[number % 8]
    text = f"Incorrect API key provided: {make('answerkey')} at https://{make('answerhost', '')}.example.com/"
    text += " ".join(make("answertext", "") for _ in range(4))
    error = json.dumps({"error": {"message": text, "type": "x", "code": make("answercode", "")}}).encode()
    request(weir, path, lab.body(path, Script.body(error, status=status), messages=prompt), **auth)
    weir.forgive_keys()

    broken = [
        *(sse.chunk(make("text", "")) for _ in range(5)),
        b"data: {broken " + make("chunk", "").encode() + b"\n\n",
    ]
    script = Script.sse(broken, end=bool(number % 3))
    with RawConnection(weir.url) as connection:
        connection.request("POST", CHAT, auth, lab.stream_body(CHAT, script))
        connection.read_response()

    stranger = {"Authorization": f"Bearer {make('stranger')}", "x-api-key": make("stranger")}
    assert request(weir, path, b"{}", **stranger) == 401
    assert request(weir, path, b"{}", **{"x-api-key": make("stranger")}) == 401
    assert request(weir, path, b'{"model": "' + make("json").encode(), **auth) == 400
    assert request(weir, f"/v1/{make('path', '')}", b"", **auth) == 404
    assert request(weir, f"/{make('path', '')}", b"", **auth) == 404
    if number % 10 == 0:
        password = base64.b64encode(f"root:{make('password', '')}".encode()).decode()
        assert request(weir, "/reload", b"", Authorization=f"Basic {password}") == 401
        stalled = {"Content-Length": "5000", **auth}
        assert request(weir, path, make("stalled", "").encode(), **stalled) == 408

    line = f"GET /v1/models?key={make('query')} HTTP/1.1\r\n"
    for fields in (f"Authorization Bearer {make('badhead')}\r\n", f"X-A: {make('badhead')}\0\r\n"):
        assert b"cnry" not in ask_raw(weir, f"{line}{fields}\r\n".encode())
    assert b"cnry" not in ask_raw(weir, f"GET /{make('query')} SPDY\r\n\r\n".encode())
    with RawConnection(weir.url) as connection:
        connection.send(f"GET / HTTP/1.1\r\nAuthorization: Bearer {make('cuthead')}".encode())


def read_pages(weir: WeirProcess) -> dict[str, bytes]:
    """Every page and API answer that takes no parameters, as the admin sees it."""
    paths = [
        path
        for path, item in json.loads(ask(weir, "/api/admin/openapi.json")[1])["paths"].items()
        if "get" in item and "{" not in path
    ]
    known = {
        f"/api/admin/{name}" for name in ("model-stats", "metrics", "user-stats", "request-logs", "health")
    }
    assert "/metrics" in paths
    return {path: ask(weir, path)[1].encode() for path in {*paths, *known, "/admin/login", "/api/docs"}}


def dump(weir: WeirProcess, collection: str) -> bytes:
    return b"".join(bson.encode(document) for document in weir.database[collection].find())


def read_files(directory: Path) -> dict[str, bytes]:
    """What is in the files below, but for the secrets that are to be there; a server's files come and go."""
    found = {}
    for root, _, names in os.walk(directory):
        for path in (Path(root, name) for name in names if name not in ("secret-key", "admin-token")):
            with suppress(FileNotFoundError):
                if path.is_file():
                    found[str(path.relative_to(directory))] = path.read_bytes()
    return found
