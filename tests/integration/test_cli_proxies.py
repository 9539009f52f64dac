"""`weir proxies …` and `weir bindings …` against a real MongoDB, real proxies and the simulator."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result
from flask import Flask

from app.cli import register_commands
from app.cli.doctor import run_checks
from app.common.clock import now_ms
from app.settings import Settings
from app.store.deployment import adopt
from simulator import Simulator
from tests.support.proxy_servers import HttpProxy, Socks5Proxy

Run = Callable[..., Result]
PASSWORD = "hunter2-hunter2"


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with Simulator() as upstream:
        yield upstream


@pytest.fixture
def run(database, mongo_uri: str, tmp_path: Path, simulator: Simulator) -> Run:
    return commands(database, mongo_uri, tmp_path, simulator)


@pytest.fixture
def strict_run(database, mongo_uri: str, tmp_path: Path, simulator: Simulator) -> Run:
    return commands(database, mongo_uri, tmp_path, simulator, upstream_proxy_fallback_direct="off")


def commands(database, mongo_uri: str, tmp_path: Path, simulator: Simulator, **more: object) -> Run:
    adopt(database, "test-secret-of-commands", now_ms())
    app = Flask("test")
    settings = Settings(
        mongodb_uri=mongo_uri,
        mongodb_db_name=database.name,
        data_dir=tmp_path / "var",
        secret_key="test-secret-of-commands",
        ohmygpt_base_url=simulator.url,
        proxy_api_key="sk-client-of-commands",
        ohmygpt_api_keys="sk-first-0123456789,sk-second-0123456789",
        upstream_connect_timeout_s=30,
        **more,
    )
    register_commands(app, settings)
    runner = app.test_cli_runner()

    def run(*args: object, stdin: str | None = None) -> Result:
        result = runner.invoke(args=[str(arg) for arg in args], input=stdin)
        assert PASSWORD not in result.output
        return result

    return run


def ok(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


def ok_json(result: Result):
    return json.loads(ok(result))


def failed(result: Result, status: int = 1) -> str:
    assert result.exit_code == status, result.output
    assert result.stdout == ""
    return result.stderr


def add(run: Run, proxy_id: str, server: HttpProxy | Socks5Proxy, *more: str, stdin: str | None = None):
    args = ("--type", server.kind, "--host", "127.0.0.1", "--port", server.port, *more)
    return run("proxies", "add", proxy_id, *args, stdin=stdin)


def test_a_proxy_that_is_there_already_is_not_added(run: Run) -> None:
    where = ("--type", "http", "--host", "203.0.113.7", "--port", 3128)
    ok(run("proxies", "add", "berlin", *where))
    assert "there is a proxy berlin already" in failed(run("proxies", "add", "berlin", *where))
    said = failed(run("proxies", "add", "again", *where))
    assert "berlin is this proxy already: http, 203.0.113.7, port 3128" in said
    named = run("proxies", "add", "paris", "--name", "Berlin", "--type", "http", "--host", "h", "--port", 1)
    assert "there is a proxy named berlin already: berlin" in failed(named)
    assert [proxy["id"] for proxy in ok_json(run("proxies", "list", "--json"))["proxies"]] == ["berlin"]


def test_a_proxy_is_added_listed_disabled_enabled_and_deleted(run: Run, database) -> None:
    args = ("--type", "socks5", "--host", "[2001:db8::1]", "--port", 1080, "--username", "weir")
    added = ok_json(run("proxies", "add", "p1", *args, "--password-stdin", "--json", stdin=f"{PASSWORD}\n"))
    assert added == {
        "id": "p1", "_id": "p1", "name": "p1", "type": "socks5", "host": "2001:db8::1", "port": 1080,
        "hasAuth": True, "username": "weir",
        "status": "unknown", "lastLatencyMs": None, "lastCheckedAt": None, "lastError": None, "failCount": 0,
        "isActive": True, "createdAt": added["createdAt"], "updatedAt": added["updatedAt"],
    }  # fmt: skip
    assert PASSWORD not in str(database.proxies.find_one())
    assert "2001:db8::1" in ok(run("proxies", "list"))
    ok(run("proxies", "disable", "p1"))
    assert ok_json(run("proxies", "list", "--json"))["proxies"][0]["isActive"] is False
    assert ok_json(run("proxies", "enable", "p1", "--json"))["isActive"] is True
    assert ok_json(run("proxies", "delete", "p1", "--json")) == {
        "id": "p1", "deleted": True, "bindingsDeleted": 0,
    }  # fmt: skip
    assert "weir proxies add" in ok(run("proxies", "list"))


def test_an_id_is_taken_once(run: Run) -> None:
    with HttpProxy() as server:
        ok(add(run, "p1", server))
        assert "there is a proxy p1 already" in failed(add(run, "p1", server))


def test_check_reaches_the_upstream_through_each_proxy(run: Run) -> None:
    with HttpProxy(("weir", PASSWORD)) as http, Socks5Proxy(("weir", PASSWORD)) as socks:
        for proxy_id, server in (("h", http), ("s", socks)):
            ok(add(run, proxy_id, server, "--username", "weir", "--password-stdin", stdin=PASSWORD))
        assert "✓ h: " in ok(run("proxies", "check"))
        report = ok_json(run("proxies", "check", "--json"))
        assert report["ok"] is True
        assert [row["status"] for row in report["proxies"]] == ["healthy"] * 2
        http.credentials = ("weir", "changed")
        result = run("proxies", "check", "--json")
        assert result.exit_code == 1
        rows = json.loads(result.stdout)["proxies"]
        assert [row["lastError"] for row in rows] == ["it refuses the user name or password", None]
        assert run("proxies", "check", "h").exit_code == 1
        assert ok_json(run("proxies", "check", "s", "--json"))["ok"] is True
        listed = ok_json(run("proxies", "list", "--json"))["proxies"]
        assert [row["status"] for row in listed] == ["unhealthy", "healthy"]


def test_check_without_proxies_and_of_one_that_cannot_be_read(run: Run, database) -> None:
    assert "no active proxy" in ok(run("proxies", "check"))
    database.proxies.insert_one({"_id": "odd", "type": "ftp", "host": "h", "port": 1})
    result = run("proxies", "check")
    assert result.exit_code == 1
    assert "✗ odd: the type takes http or socks5" in result.stdout


def test_doctor_looks_at_proxies_and_asks_the_upstream_the_way_requests_go(run: Run) -> None:
    with Socks5Proxy() as server, HttpProxy() as gone:
        assert " proxies: " not in ok(run("doctor"))
        ok(add(run, "p1", server))
        ok(add(run, "p2", gone))
        ok(run("bindings", "add", "p1", "env-1"))
        out = ok(run("doctor"))
        assert "✓ proxies: 2 can be used" in out
        assert "✓ upstream: 127.0.0.1 answers and takes key env-1" in out
        assert len(server.seen) == 1
        gone.stop()
        run("proxies", "check")
        assert "! proxies: 1 of 2 can be used; not p2 → weir proxies check" in ok(run("doctor"))


def test_doctor_never_goes_directly_where_that_is_forbidden(strict_run: Run, simulator: Simulator) -> None:
    simulator.reset()
    result = strict_run("doctor")
    assert result.exit_code == 1
    assert "✗ proxies: there is none, and UPSTREAM_PROXY_FALLBACK_DIRECT is off" in result.stdout
    assert "✗ upstream: 127.0.0.1: no_proxy" in result.stdout
    assert simulator.tally.wait_ended(0) == []


def test_doctor_stays_away_from_the_upstream_while_proxies_are_not_known(
    tmp_path: Path, simulator: Simulator
) -> None:
    settings = Settings(
        mongodb_uri="mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=50",
        data_dir=tmp_path / "var",
        ohmygpt_base_url=simulator.url,
        ohmygpt_api_keys="sk-first-0123456789",
        upstream_proxy_fallback_direct="off",
    )
    simulator.reset()
    checks = {check.name: check for check in run_checks(settings)}
    assert checks["upstream"].detail.startswith("not asked")
    assert simulator.tally.wait_ended(0) == []


def test_bindings_are_added_listed_and_deleted(run: Run) -> None:
    with HttpProxy() as server:
        ok(add(run, "p1", server))
    ok(run("keys", "add", "k1", "--api-key-stdin", stdin="sk-upstream-0123456789"))
    added = ok_json(run("bindings", "add", "p1", "k1", "--priority", 3, "--json"))
    assert (added["proxyId"], added["ohmygptKeyId"], added["priority"], added["isActive"]) == (
        "p1", "k1", 3, True,
    )  # fmt: skip
    ok(run("bindings", "add", "p1", "env-2"))
    assert "already" in failed(run("bindings", "add", "p1", "k1"))
    assert "k1" in ok(run("bindings", "list"))
    rows = ok_json(run("bindings", "list", "--json"))["bindings"]
    assert [row["ohmygptKeyId"] for row in rows] == ["env-2", "k1"]
    assert ok_json(run("bindings", "delete", "p1", "k1", "--json"))["deleted"] is True
    ok(run("bindings", "delete", "p1", "env-2"))
    assert "weir bindings add" in ok(run("bindings", "list"))


@pytest.mark.parametrize(
    "args",
    [
        ("proxies", "add", "p 1", "--type", "http", "--host", "h", "--port", 1),
        ("proxies", "add", "p1", "--type", "http", "--host", "http://h", "--port", 1),
        ("proxies", "check", "unknown"),
        ("proxies", "enable", "unknown"),
        ("proxies", "disable", "unknown"),
        ("proxies", "delete", "unknown"),
        ("bindings", "add", "unknown", "env-1"),
        ("bindings", "delete", "unknown", "env-1"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_status_1(run: Run, args: tuple[object, ...]) -> None:
    assert failed(run(*args)).count("\n") == 1


@pytest.mark.parametrize("key_id", ["unknown", "env-3"])
def test_an_unknown_key_cannot_be_bound(run: Run, key_id: str) -> None:
    with HttpProxy() as server:
        ok(add(run, "p1", server))
    assert f"there is no key {key_id}" in failed(run("bindings", "add", "p1", key_id))


@pytest.mark.parametrize(
    "args",
    [
        ("proxies", "add", "p1", "--type", "ftp", "--host", "h", "--port", 1),
        ("proxies", "add", "p1", "--type", "http", "--port", 1),
        ("proxies", "add", "p1", "--type", "http", "--host", "h", "--port", 0),
        ("proxies", "add", "p1", "--type", "http", "--host", "h", "--port", 1, "--username", "u"),
        ("proxies", "add", "p1", "--type", "http", "--host", "h", "--port", 1, "--password-stdin"),
        ("bindings", "add", "p1"),
        ("bindings", "add", "p1", "k1", "--priority", 11),
    ],
)
def test_wrong_use_is_exit_status_2(run: Run, args: tuple[object, ...]) -> None:
    failed(run(*args), status=2)
