"""The `flask …` commands against a real MongoDB."""

import csv
import io
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import Result
from flask import Flask

from app.accounts.client_keys import ClientKeyStore
from app.accounts.credentials import hash_client_key
from app.accounts.users import UserStore
from app.cli import register_commands
from app.cli.log_follower import LogFollower
from app.keys.key_state_store import env_store_id
from app.settings import Settings
from app.store.deployment import adopt

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
UPSTREAM_KEY = "sk-upstream-0123456789-0123456789-0123456789"
ROOT = Path(__file__).resolve().parents[2]

Run = Callable[..., Result]


def commands(**settings: object) -> Run:
    app = Flask("test")
    register_commands(app, Settings(**settings))
    runner = app.test_cli_runner()

    def run(*args: str, stdin: str | None = None) -> Result:
        return runner.invoke(args=args, input=stdin)

    return run


@pytest.fixture
def config(database, mongo_uri: str, tmp_path: Path) -> dict[str, object]:
    adopt(database, "test-secret-of-commands", NOW)
    return {
        "mongodb_uri": mongo_uri,
        "mongodb_db_name": database.name,
        "data_dir": tmp_path / "var",
        "secret_key": "test-secret-of-commands",
    }


@pytest.fixture
def run(config: dict[str, object]) -> Run:
    return commands(**config)


def ok(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


def ok_json(result: Result):
    return json.loads(ok(result))


def failed(result: Result, status: int = 1) -> str:
    assert result.exit_code == status, result.output
    assert result.stdout == ""
    if status == 1:
        assert result.stderr.count("\n") == 1
    return result.stderr


# Users


def test_users_add_makes_a_user_and_prints_its_key_once(run: Run, database) -> None:
    made = ok_json(run("users", "add", "alice", "--credits", "5", "--rpm", "9", "--json"))
    assert made["username"] == "alice"
    assert made["credits"] == 5
    assert made["keyId"] == hash_client_key(made["apiKey"])
    assert ClientKeyStore(database).find(made["apiKey"]).username == "alice"
    assert UserStore(database).get("alice").rpm == 9
    assert made["apiKey"] not in ok(run("users", "show", "alice"))
    assert made["apiKey"] not in ok(run("client-keys", "list", "--json"))


def test_users_add_tells_a_person_the_key(run: Run) -> None:
    out = ok(run("users", "add", "bob"))
    assert "sk-weir-" in out
    assert "wk_" in out


def test_a_user_is_added_once(run: Run) -> None:
    ok(run("users", "add", "alice"))
    assert "user alice exists already" in failed(run("users", "add", "alice", "--json"))


@pytest.mark.parametrize(
    "args",
    [
        ("users", "add"),
        ("users", "add", "no spaces"),
        ("users", "add", "env"),
        ("users", "add", "alice", "--credits", "much"),
        ("users", "add", "alice", "--credits", "nan"),
        ("users", "add", "alice", "--credits", "0.0000000001"),
        ("users", "add", "alice", "--role", "king"),
        ("users", "nonsense"),
        ("keys", "add", "k1"),
        ("keys", "add", "k1", UPSTREAM_KEY),
        ("keys", "import", "/does/not/exist"),
        ("users", "password", "alice"),
        ("logs", "export", "--since", "lately"),
        ("logs", "export", "--format", "xml"),
        ("logs", "tail", "--outcome", "strange"),
        ("stats", "models", "--period", "5h"),
    ],
)
def test_wrong_use_is_exit_status_2(run: Run, args: tuple[str, ...]) -> None:
    failed(run(*args), status=2)


@pytest.mark.parametrize(
    "args",
    [
        ("users", "show", "nobody"),
        ("users", "credit", "nobody", "1"),
        ("users", "disable", "nobody"),
        ("client-keys", "add", "nobody"),
        ("client-keys", "list", "nobody"),
        ("client-keys", "revoke", "wk_unknown"),
        ("keys", "reset", "unknown"),
        ("keys", "delete", "unknown"),
        ("keys", "delete", "env-1"),
        ("backup-keys", "restore", "unknown"),
        ("backup-keys", "delete", "unknown"),
    ],
)
def test_what_does_not_exist_is_exit_status_1(run: Run, args: tuple[str, ...]) -> None:
    failed(run(*args))


def test_credit_is_added_and_taken_exactly(run: Run) -> None:
    ok(run("users", "add", "alice", "--credits", "0.1"))
    assert ok_json(run("users", "credit", "alice", "0.2", "--json"))["credits"] == 0.3
    assert ok_json(run("users", "credit", "alice", "-0.05", "--json"))["credits"] == 0.25
    assert "$0.25 of credit" in ok(run("users", "credit", "alice", "0"))
    failed(run("users", "credit", "alice", "2000000"), status=2)
    for _ in range(2):
        assert "$1.25" in ok(run("users", "credit", "alice", "1", "--idempotency-key", "invoice-7"))
    failed(run("users", "credit", "alice", "2", "--idempotency-key", "invoice-7"))
    failed(run("users", "credit", "alice", "2", "--idempotency-key", "in voice"), status=2)


def test_users_are_disabled_and_enabled(run: Run) -> None:
    ok(run("users", "add", "alice"))
    disabled = ok_json(run("users", "disable", "alice", "--json"))
    assert (disabled["username"], disabled["isActive"]) == ("alice", False)
    assert ok_json(run("users", "show", "alice", "--json"))["isActive"] is False
    assert "enabled" in ok(run("users", "enable", "alice"))


def test_users_are_listed(run: Run) -> None:
    assert "No users yet" in ok(run("users", "list"))
    ok(run("users", "add", "alice", "--credits", "1.25"))
    assert "$1.25" in ok(run("users", "list"))
    (user,) = ok_json(run("users", "list", "--json"))["users"]
    assert (user["username"], user["credits"], user["hasPassword"]) == ("alice", 1.25, False)


def test_passwords_come_from_standard_input(run: Run, database) -> None:
    ok(run("users", "add", "root", "--role", "admin", "--password-stdin", stdin="the first of them\n"))
    assert UserStore(database).login("root").password.matches("the first of them")
    ok(run("users", "password", "root", "--password-stdin", "--json", stdin="the second of them"))
    assert UserStore(database).login("root").password.matches("the second of them")
    failed(run("users", "password", "root", "--password-stdin", stdin="\n"))
    for weak in ("short", "change-me-please"):
        for command in (("add", "new"), ("password", "root")):
            refused = run("users", *command, "--password-stdin", stdin=weak)
            assert refused.exit_code == 2
            assert "the password takes 12 characters or more, and this one is" in refused.stderr
    assert UserStore(database).get("new") is None
    assert UserStore(database).login("root").password.matches("the second of them")


def test_the_last_admin_cannot_be_disabled(run: Run, database) -> None:
    ok(run("users", "add", "root", "--role", "admin"))
    assert "no owner would be left" in failed(run("users", "disable", "root"))
    ok(run("users", "add", "second", "--role", "admin"))
    ok(run("users", "disable", "root"))
    assert "no owner would be left" in failed(run("users", "disable", "second", "--json"))


def test_a_terminal_is_asked_without_showing_the_answer(run: Run, database, monkeypatch) -> None:
    monkeypatch.setattr("app.cli.secret_input._is_terminal", lambda: True)
    result = run("keys", "add", "k1", stdin=UPSTREAM_KEY + "\n")
    assert UPSTREAM_KEY not in ok(result) + result.stderr
    assert database.ohmygpt_keys.count_documents({}) == 1


# Client keys


def test_client_keys_are_listed_and_revoked(run: Run) -> None:
    first = ok_json(run("users", "add", "alice", "--json"))
    second = ok_json(run("client-keys", "add", "alice", "--notes", "laptop", "--json"))
    assert "sk-weir-" in ok(run("client-keys", "add", "alice"))
    assert second["name"] == "alice"
    assert ok_json(run("client-keys", "revoke", first["keyId"], "--json"))["revoked"] is True
    rows = {row["id"]: row for row in ok_json(run("client-keys", "list", "alice", "--json"))["keys"]}
    assert len(rows) == 3
    assert rows[first["keyId"]]["isActive"] is False
    assert rows[second["id"]]["isActive"] is True
    assert second["id"] in ok(run("client-keys", "list"))


def test_keys_of_older_deployments_are_never_shown(run: Run, database) -> None:
    key = "sk-troll-abcdefghijklmnopqrstuvwx"
    database.user_keys.insert_one({"_id": key, "name": "old", "isActive": True})
    assert key not in ok(run("client-keys", "list")) + ok(run("client-keys", "list", "--json"))
    result = run("client-keys", "revoke", hash_client_key(key))
    assert key not in ok(result)
    assert database.user_keys.find_one()["isActive"] is False


# Upstream keys


def test_upstream_keys_are_added_and_shown_masked(run: Run, database) -> None:
    added = ok_json(run("keys", "add", "k1", "--api-key-stdin", "--json", stdin=f"{UPSTREAM_KEY}\n"))
    assert added["apiKey"] == "sk-upstr...6789"
    out = ok(run("keys", "list")) + ok(run("keys", "list", "--json"))
    assert "sk-upstr...6789" in out
    assert UPSTREAM_KEY not in out + str(database.ohmygpt_keys.find_one())
    assert "already" in failed(run("keys", "add", "k1", "--api-key-stdin", stdin=UPSTREAM_KEY))
    failed(run("keys", "add", "bad id", "--api-key-stdin", stdin=UPSTREAM_KEY))


@pytest.mark.parametrize("group", ["keys", "backup-keys"])
def test_a_key_file_is_imported_whole_or_not_at_all(run: Run, group: str, tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    file.write_text(f"a|{UPSTREAM_KEY}\nnonsense\nb|x\n")
    result = run(group, "import", str(file))
    assert result.exit_code == 1
    assert "line 2: " in result.stderr
    assert "line 3: " in result.stderr
    assert UPSTREAM_KEY not in result.output
    assert ok_json(run(group, "list", "--json"))["keys"] == []
    assert ok_json(run(group, "import", "-", "--json", stdin=f"a|{UPSTREAM_KEY}\n")) == {
        "imported": 1,
        "ids": ["a"],
    }
    assert UPSTREAM_KEY not in ok(run(group, "list"))
    file.write_bytes(b"\xff\xfe")
    assert "not UTF-8" in failed(run(group, "import", str(file)))


def test_a_key_is_reset_and_deleted(run: Run, database) -> None:
    ok(run("keys", "import", "-", stdin=f"k1|{UPSTREAM_KEY}"))
    database.ohmygpt_keys.update_one({"_id": "k1"}, {"$set": {"status": "exhausted", "lastError": "402"}})
    assert "exhausted" in ok(run("keys", "list"))
    assert ok_json(run("keys", "reset", "k1", "--json"))["status"] == "healthy"
    assert "healthy" in ok(run("keys", "reset", "k1"))
    ok(run("keys", "delete", "k1"))
    assert database.ohmygpt_keys.count_documents({}) == 0


def test_a_keys_limits_are_changed_one_by_one_and_taken_away(run: Run, database) -> None:
    ok(run("keys", "import", "-", stdin=f"k1|{UPSTREAM_KEY}"))
    said = ok(run("keys", "limit", "k1", "--weight", "3", "--rpm", "60", "--max-in-flight", "5"))
    assert said.strip() == "k1: weight 3, 60 requests a minute, 5 at a time"
    ok(run("keys", "limit", "k1", "--rpm", "none", "--weight", "none"))
    assert ok(run("keys", "limit", "k1")).strip() == "k1: weight 1, any requests a minute, 5 at a time"
    stored = database.ohmygpt_keys.find_one()
    assert (stored["maxInFlight"], "rpm" in stored, "weight" in stored) == (5, False, False)
    assert run("keys", "limit", "k1", "--weight", "0").exit_code == 2
    assert "there is no key k2" in failed(run("keys", "limit", "k2", "--rpm", "5"))
    assert "OHMYGPT_API_KEYS" in failed(run("keys", "limit", "env-1", "--rpm", "5"))


def test_keys_of_the_configuration_are_listed_too(config: dict[str, object]) -> None:
    rows = ok_json(commands(**config, ohmygpt_api_keys=UPSTREAM_KEY)("keys", "list", "--json"))["keys"]
    assert [(row["id"], row["apiKey"]) for row in rows] == [("env-1", "sk-upstr...6789")]


def test_keys_of_the_configuration_have_states_and_are_reset_too(config: dict[str, object], database) -> None:
    run = commands(**config, ohmygpt_api_keys=UPSTREAM_KEY)
    spent = {"_id": env_store_id(UPSTREAM_KEY), "keyId": "env-1", "status": "exhausted", "lastError": "402"}
    database.upstream_key_states.insert_one(spent)
    (row,) = ok_json(run("keys", "list", "--json"))["keys"]
    assert (row["status"], row["lastError"]) == ("exhausted", "402")
    assert ok_json(run("keys", "reset", "env-1", "--json"))["status"] == "healthy"
    assert "healthy" in ok(run("keys", "list"))
    failed(run("keys", "reset", "env-2"))
    assert UPSTREAM_KEY not in str(list(database.upstream_key_states.find()))


def test_what_happened_to_keys_is_listed(run: Run, database) -> None:
    assert "Nothing has happened" in ok(run("keys", "events"))
    ok(run("keys", "import", "-", stdin=f"k1|{UPSTREAM_KEY}\nk2|{UPSTREAM_KEY}2"))
    change = {"$set": {"status": "error", "stateSeverity": 3, "suspectedBy": "r1", "replacedBy": "s1"}}
    database.ohmygpt_keys.update_one({"_id": "k1"}, change)
    assert "replaced by s1" in ok(run("keys", "list"))
    ok(run("keys", "reset", "k1"))
    ok(run("keys", "reset", "k2"))
    (event,) = ok_json(run("keys", "events", "k1", "--json"))["events"]
    assert (event["keyId"], event["from"], event["to"], event["why"]) == ("k1", "error", "healthy", "reset")
    assert len(ok_json(run("keys", "events", "--json"))["events"]) == 2
    assert "reset" in ok(run("keys", "events", "--limit", "1"))
    database.ohmygpt_keys.update_one({"_id": "k2"}, {"$set": {"suspectedBy": "r1"}})
    assert "healthy, suspected" in ok(run("keys", "list"))


def test_a_spare_key_that_serves_is_not_restored(run: Run, database) -> None:
    ok(run("backup-keys", "add", "s1", "--api-key-stdin", stdin=UPSTREAM_KEY))
    database.ohmygpt_keys.insert_one({"_id": "s1", "fromBackup": "s1"})
    assert "delete it there first" in failed(run("backup-keys", "restore", "s1"))


def test_spare_keys_are_added_restored_and_deleted(run: Run, database) -> None:
    ok(run("backup-keys", "add", "s1", "--api-key-stdin", stdin=UPSTREAM_KEY))
    added = ok_json(run("backup-keys", "add", "s2", "--api-key-stdin", "--json", stdin=UPSTREAM_KEY))
    assert added["isUsed"] is False
    failed(run("backup-keys", "add", "bad id", "--api-key-stdin", stdin=UPSTREAM_KEY))
    database.ohmygpt_backup_keys.update_one({"_id": "s1"}, {"$set": {"isUsed": True, "usedFor": "k1"}})
    listed = ok_json(run("backup-keys", "list", "--json"))
    assert (listed["total"], listed["available"], listed["used"]) == (2, 1, 1)
    assert "k1" in ok(run("backup-keys", "list"))
    assert ok_json(run("backup-keys", "restore", "s1", "--json"))["isUsed"] is False
    ok(run("backup-keys", "restore", "s1"))
    ok(run("backup-keys", "delete", "s1"))
    ok_json(run("backup-keys", "delete", "s2", "--json"))
    assert database.ohmygpt_backup_keys.count_documents({}) == 0


# Logs and statistics


def record(number: int, **fields: object) -> dict[str, object]:
    return {
        "_id": f"r{number}",
        "requestId": f"r{number}",
        "userId": "alice",
        "userKeyId": "wk_1",
        "factoryKeyId": "k1",
        "model": "m1",
        "inputTokens": 10,
        "outputTokens": 5,
        "creditsCost": 0.000123,
        "costNanoUsd": 123_000,
        "statusCode": 200,
        "isSuccess": True,
        "outcome": "ok",
        "latencyMs": 700,
        "attempts": [{"factoryKeyId": "k1"}],
        "createdAt": NOW + timedelta(seconds=number),
    } | fields


def test_the_newest_records_are_shown_last(run: Run, database) -> None:
    database.request_logs.insert_many([record(n) for n in range(30)])
    lines = ok(run("logs", "tail", "-n", "3")).splitlines()
    assert [line.split()[-1] for line in lines] == ["r27", "r28", "r29"]
    assert "$0.000123" in lines[0]


def test_records_are_filtered(run: Run, database) -> None:
    bad = record(3, outcome="upstream_error", errorType="api_error", isSuccess=False, statusCode=502)
    bad["errorMessage"] = "no \x1b[2Jluck"
    database.request_logs.insert_many([record(1), record(2, userId="bob", model="m2"), bad])
    assert "r2" in ok(run("logs", "tail", "--user", "bob", "--model", "m2"))
    out = ok(run("logs", "tail", "--outcome", "upstream_error", "--json"))
    assert [json.loads(line)["requestId"] for line in out.splitlines()] == ["r3"]
    assert "api_error: no �[2Jluck" in ok(run("logs", "tail"))
    for options, found in (
        (["--user-like", "BO"], ["r2"]),
        (["--model-like", "M2"], ["r2"]),
        (["--status", "5xx"], ["r3"]),
        (["--search", "luck"], ["r3"]),
        (["--min-cost", "1"], []),
        (["--min-latency", "99999"], []),
        (["--key", "wk_none"], []),
        (["--factory-key", "none"], []),
        (["--view", "failed"], ["r3"]),
    ):
        for way in (["tail", "--json"], ["export", "--json"]):
            lines = ok(run("logs", *way, *options)).splitlines()
            assert [json.loads(line)["requestId"] for line in lines] == found, options


def test_what_strangers_sent_cannot_reach_the_terminal(run: Run, database) -> None:
    database.request_logs.insert_one(record(1, model="\x1b[2Jm\n1"))
    out = ok(run("logs", "tail"))
    assert "\x1b[2J" not in out
    assert len(out.splitlines()) == 1


def test_records_of_older_software_are_shown_without_their_keys(run: Run, database) -> None:
    key = "sk-troll-abcdefghijklmnopqrstuvwx"
    old = {"userKeyId": key, "creditsCost": 0.5, "isSuccess": True, "statusCode": 200, "createdAt": NOW}
    database.request_logs.insert_one(old)
    assert "$0.50" in ok(run("logs", "tail"))
    for form in ("csv", "jsonl"):
        assert key not in ok(run("logs", "export", "--format", form))


def test_csv_is_exported_oldest_first_and_holds_no_formula(run: Run, database) -> None:
    database.request_logs.insert_many([record(2, model='=cmd|"x",1'), record(1)])
    rows = list(csv.DictReader(io.StringIO(ok(run("logs", "export", "--format", "csv")))))
    assert [row["requestId"] for row in rows] == ["r1", "r2"]
    assert rows[0]["createdAt"] == "2026-11-23T12:00:01.000Z"
    assert rows[0]["attempts"] == "1"
    assert rows[0]["isSuccess"] == "true"
    assert rows[1]["model"] == '\'=cmd|"x",1'


def test_jsonl_is_exported_within_a_time(run: Run, database) -> None:
    database.request_logs.insert_many([record(n) for n in range(1, 6)])
    window = ("--since", "2026-11-23T12:00:02Z", "--until", "2026-11-23T12:00:04Z")
    lines = ok(run("logs", "export", *window)).splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["r2", "r3"]
    assert ok(run("logs", "export", *window, "--format", "csv", "--json")).splitlines() == lines


def test_following_gives_each_new_record_once_in_the_order_of_writing(database) -> None:
    database.request_logs.insert_many([record(n) for n in range(5)])
    follower = LogFollower(database)
    assert follower.poll() == []
    # A long request is written after a short one that began later.
    database.request_logs.insert_many([record(20), record(10)])
    follower.skip([record(10)])
    database.request_logs.insert_one(record(15))
    assert [found["_id"] for found in follower.poll()] == ["r20", "r15"]
    assert follower.poll() == []


def test_following_ends_with_an_interrupt(run: Run, database, monkeypatch) -> None:
    database.request_logs.insert_one(record(1))
    naps = iter([lambda: database.request_logs.insert_many([record(2), record(3, userId="bob")]), None])

    def nap(_seconds: float) -> None:
        work = next(naps)
        if work is None:
            raise KeyboardInterrupt
        work()

    monkeypatch.setattr("app.cli.logs.sleep", nap)
    lines = ok(run("logs", "tail", "-f", "--user", "alice")).splitlines()
    assert [line.split()[-1] for line in lines] == ["r1", "r2"]


def test_models_have_statistics(run: Run, database) -> None:
    assert "No requests" in ok(run("stats", "models"))
    old = {"model": "m1", "inputTokens": 3, "outputTokens": 4, "creditsCost": 0.5, "isSuccess": True}
    database.request_logs.insert_one(old | {"createdAt": datetime.now(UTC), "statusCode": 200})
    stats = ok_json(run("stats", "models", "--period", "1h", "--json"))
    assert stats["period"] == "1h"
    assert [(row["model"], row["totalTokens"]) for row in stats["models"]] == [("m1", 7)]
    assert "m1" in ok(run("stats", "models", "--period", "all"))
    for kind in ("models", "usage"):
        compared = ok_json(run("stats", kind, "--period", "1h", "--compare", "previous", "--json"))
        assert compared["previous"]["to"] == compared["from"]
        table = ok(run("stats", kind, "--period", "1h", "--compare", "previous"))
        assert "COST BEFORE" in table
        assert "Before" in table
        assert "There is no period before." in ok(
            run("stats", kind, "--period", "all", "--compare", "previous")
        )


def test_models_asked_for_in_vain_are_shown(run: Run, database) -> None:
    assert "No request" in ok(run("prices", "missing"))
    refused = {
        "outcome": "rejected",
        "errorType": "model_not_found",
        "userId": "ann",
        "createdAt": datetime.now(UTC),
    }
    names = ("claude-9\x1b[2J", "CLAUDE-sonnet-5")
    database.request_logs.insert_many([refused | {"requestedModel": name} for name in names])
    table = ok(run("prices", "missing", "--period", "24h"))
    assert "claude-9�[2J" in table
    shown = {row["model"]: row for row in ok_json(run("prices", "missing", "--json"))["models"]}
    assert [(shown[name]["requests"], shown[name]["isKnownNow"]) for name in names] == [(1, False), (1, True)]


# Doctor


class Upstream(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        good = self.headers["Authorization"] == f"Bearer {UPSTREAM_KEY}"
        self.send_response(self.server.status if good else 401)  # type: ignore[attr-defined]
        self.send_header("Content-Length", str(len(self.server.listed)))  # type: ignore[attr-defined]
        self.end_headers()
        self.wfile.write(self.server.listed)  # type: ignore[attr-defined]

    def do_POST(self) -> None:
        self.server.bodies.add(self.rfile.read(int(self.headers["Content-Length"])))  # type: ignore[attr-defined]
        self.send_response(self.server.posts.get(self.path, 401))  # type: ignore[attr-defined]
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def upstream() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), Upstream) as server:
        server.status = 200  # type: ignore[attr-defined]
        server.posts, server.bodies, server.listed = {}, set(), b""  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def base_url(server: HTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/base"


def states(result: Result) -> dict[str, str]:
    return {check["name"]: check["state"] for check in json.loads(result.stdout)["checks"]}


def test_doctor_finds_a_sound_installation_sound(config, upstream: HTTPServer) -> None:
    run = commands(**config, ohmygpt_base_url=base_url(upstream), ohmygpt_api_keys=UPSTREAM_KEY)
    ok(run("init"))
    ok(run("users", "add", "alice"))
    out = ok(run("doctor"))
    assert out.count("✓") == len(out.splitlines()) == 7
    assert UPSTREAM_KEY not in out
    assert set(states(run("doctor", "--json")).values()) == {"ok"}


def test_doctor_says_what_a_new_installation_lacks(config, upstream: HTTPServer) -> None:
    run = commands(**config, ohmygpt_base_url=base_url(upstream))
    result = run("doctor")
    assert result.exit_code == 1
    assert "✗ upstream keys: there is no key" in result.stdout
    assert "weir keys add" in result.stdout
    assert "! users: nobody can call yet" in result.stdout
    assert "! upstream: 127.0.0.1 can be reached; without a key" in result.stdout


@pytest.mark.parametrize(("status", "state"), [(200, "ok"), (404, "warning"), (402, "failed")])
def test_doctor_tries_a_key(config, upstream: HTTPServer, status: int, state: str) -> None:
    upstream.status = status  # type: ignore[attr-defined]
    run = commands(**config, ohmygpt_base_url=base_url(upstream), ohmygpt_api_keys=UPSTREAM_KEY)
    assert states(run("doctor", "--json"))["upstream"] == state


def test_doctor_has_a_line_for_each_host(config, upstream: HTTPServer) -> None:
    urls = f"http://127.0.0.1:1/gone,{base_url(upstream)}"
    run = commands(**config, ohmygpt_base_url=urls, ohmygpt_api_keys=UPSTREAM_KEY)
    ok(run("init"))
    found = states(run("doctor", "--json"))
    assert (found["upstream host 0"], found["upstream host 1"]) == ("warning", "ok")
    upstream.status = 402  # type: ignore[attr-defined]
    found = states(run("doctor", "--json"))
    assert (found["upstream host 0"], found["upstream host 1"]) == ("failed", "failed")


def test_doctor_probes_endpoints_and_does_not_pretend(config, upstream: HTTPServer) -> None:
    run = commands(**config, ohmygpt_base_url=base_url(upstream), ohmygpt_api_keys=UPSTREAM_KEY)
    ok(run("init"))
    upstream.posts = {"/base/v1/messages": 400, "/base/v1/messages/count_tokens": 404}  # type: ignore[attr-defined]
    out = ok(run("doctor", "--probe"))
    assert "✓ POST /v1/messages: seems to be there (400" in out
    assert "! POST /v1/messages/count_tokens: seems not to be there (404)" in out
    assert "! POST /v1/chat/completions: not known: it answers 401" in out
    assert upstream.bodies == {b"{}"}  # type: ignore[attr-defined]


def test_doctor_names_keys_that_cannot_be_used(config, upstream: HTTPServer, database) -> None:
    run = commands(**config, ohmygpt_base_url=base_url(upstream), ohmygpt_api_keys=UPSTREAM_KEY)
    ok(run("keys", "import", "-", stdin=f"k1|{UPSTREAM_KEY}"))
    database.ohmygpt_keys.update_one({}, {"$set": {"status": "exhausted"}})
    assert "! upstream keys: 1 of 2 can be used (1 healthy, 1 exhausted); not k1" in ok(run("doctor"))
    alone = commands(**config, ohmygpt_base_url=base_url(upstream))("doctor", "--json")
    assert states(alone)["upstream keys"] == "failed"


def test_doctor_reports_each_failure_and_goes_on(config, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("[[models]]\nid = 1\n")
    socket = str(tmp_path / "none.sock").replace("/", "%2F")
    broken = {
        "data_dir": tmp_path / "file",
        "models_file": tmp_path / "file",
        "mongodb_uri": f"mongodb://user:w0rd@{socket}/?serverSelectionTimeoutMS=50",
        "ohmygpt_base_url": "http://127.0.0.1:1/base",
    }
    result = commands(**config | broken)("doctor", "--json")
    assert result.exit_code == 1
    found = states(result)
    assert found.pop("configuration") == "ok"
    assert found == dict.fromkeys(
        ["data directory", "models", "store", "upstream keys", "upstream"], "failed"
    )
    assert "w0rd" not in result.output


@pytest.mark.parametrize(("mode", "state"), [(0o700, "ok"), (0o755, "warning")])
def test_doctor_minds_who_can_read_the_data_directory(config, upstream, mode: int, state: str) -> None:
    config["data_dir"].mkdir()
    config["data_dir"].chmod(mode)
    run = commands(**config, ohmygpt_base_url=base_url(upstream))
    assert states(run("doctor", "--json"))["data directory"] == state


# The store, and the real thing


def test_a_store_that_is_gone_is_one_line(config, tmp_path: Path) -> None:
    socket = str(tmp_path / "none.sock").replace("/", "%2F")
    uri = f"mongodb://user:w0rd@{socket}/?serverSelectionTimeoutMS=50"
    reason = failed(commands(**config | {"mongodb_uri": uri})("users", "list"))
    assert "MongoDB: " in reason
    assert "w0rd" not in reason
    assert "MONGODB_URI" in failed(commands(**config | {"mongodb_uri": "nonsense"})("users", "list"))


def test_without_a_configured_store_the_embedded_one_is_used(tmp_path: Path) -> None:
    run = commands(data_dir=tmp_path / "var")
    ok(run("init"))
    ok(run("users", "add", "alice", "--credits", "2"))
    assert "alice" in ok(run("users", "list"))


def test_the_flask_command_finds_it_all(config: dict[str, object]) -> None:
    env = {name.upper(): str(value) for name, value in config.items()}
    done = subprocess.run(
        [sys.executable, "-m", "flask", "users", "add", "alice", "--credits", "5", "--json"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (done.returncode, done.stderr.startswith("weir: wrote to test_")) == (0, True)
    assert json.loads(done.stdout)["credits"] == 5


def test_registering_the_commands_imports_none_of_them() -> None:
    ours = "{m for m in sys.modules if m.startswith(('rich', 'app.cli.'))}"
    script = f"import sys, app.cli; sys.exit({ours} != {{'app.cli.streams'}})"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=240)


# What the upstream offers


def test_models_sync_shows_what_the_table_lacks_and_writes_nothing(config, upstream: HTTPServer) -> None:
    table = Path(str(config["data_dir"])).parent / "some-models.toml"
    entries = [f'[[models]]\nid = "{model}"\ninput = 1\noutput = 1\n' for model in ("a/b", "old")]
    table.write_text("".join(entries))
    run = commands(
        **config, models_file=table, ohmygpt_base_url=base_url(upstream), ohmygpt_api_keys=UPSTREAM_KEY
    )
    ok(run("init"))
    upstream.listed = b'{"data": [{"id": "a/b"}, {"id": "new:c"}]}'  # type: ignore[attr-defined]
    out = ok(run("models", "sync", "--from-upstream"))
    assert "  + new:c" in out
    assert "  - old" in out
    found = json.loads(ok(run("models", "sync", "--from-upstream", "--json")))
    assert (found["new"], found["gone"], found["agreeing"]) == (["new:c"], ["old"], 1)
    checked = run("models", "sync", "--from-upstream", "--check")
    assert (checked.exit_code, checked.stderr) == (1, "")
    assert ok_json(run("prices", "diff", "--upstream", "--json")) == found
    upstream.listed = b'{"data": [{"id": "a/b"}, {"id": "old"}]}'  # type: ignore[attr-defined]
    assert run("models", "sync", "--from-upstream", "--check").exit_code == 0
    assert run("prices", "diff", "--upstream", "--check").exit_code == 0
    upstream.status = 503  # type: ignore[attr-defined]
    assert "cannot be read" in failed(run("models", "sync", "--from-upstream"))
    assert run("models", "sync").exit_code == 2


def test_limits_of_users_and_keys(run: Run, database) -> None:
    made = ok_json(run("users", "add", "ann", "--budget", "10/month", "--tpm", "500", "--json"))
    view = ok_json(run("users", "show", "ann", "--json"))
    assert (view["tpm"], view["budgets"][0]["usd"], view["budgets"][0]["leftNanoUsd"]) == (500, "10", 10**10)
    view = ok_json(
        run(
            "users",
            "limit",
            "ann",
            "--budget",
            "1/5h",
            "--budget",
            "2/day:gpt-*,o3",
            "--models",
            "gpt-*,o3",
            "--json",
        )
    )
    assert [item["per"] for item in view["budgets"]] == ["5h", "day"]
    assert (view["models"], view["tpm"]) == (["gpt-*", "o3"], 500)
    text = ok(run("users", "limit", "ann", "--budget", "none", "--tpm", "0"))
    assert "only models gpt-*, o3" in text
    assert "budget" not in text
    key = ok_json(
        run("client-keys", "limit", made["keyId"], "--name", "ci", "--allowed-ips", "10.0.0.0/8", "--json")
    )
    assert (key["keyName"], key["allowedIps"]) == ("ci", ["10.0.0.0/8"])
    text = ok(run("client-keys", "limit", made["keyId"], "--budget", "0.5/total"))
    assert "budget 0.5/total: $0.50 left" in text
    assert "only from 10.0.0.0/8" in text
    before = database.admin_audit.count_documents({})
    assert ok(run("client-keys", "limit", made["keyId"])) == text
    assert database.admin_audit.count_documents({}) == before
    another = ok_json(
        run("client-keys", "add", "ann", "--expires", "2027-01-31", "--max-parallel", "2", "--json")
    )
    stored = database.user_keys.find_one({"_id": another["id"]})
    assert (stored["maxParallel"], stored["expiresAt"].year) == (2, 2027)


def test_a_key_is_paused_and_accepted_again(run: Run, database) -> None:
    ok(run("users", "add", "ann"))
    made = ok_json(run("client-keys", "add", "ann", "--paused", "--json"))
    assert database.user_keys.find_one({"_id": made["id"]})["isActive"] is False
    assert "not accepted" in ok(run("client-keys", "limit", made["id"]))
    assert ok_json(run("client-keys", "limit", made["id"], "--active", "--json"))["isActive"] is True
    assert "not accepted" not in ok(run("client-keys", "limit", made["id"]))


def test_an_expiry_without_a_zone_is_in_that_of_statistics(config: dict[str, object], database) -> None:
    run = commands(**config, stats_timezone="America/New_York")
    made = ok_json(run("users", "add", "ann", "--expires", "2027-01-31", "--json"))
    assert "2027-01-31T05:00" in ok(run("users", "show", "ann", "--json"))
    view = ok_json(run("client-keys", "limit", made["keyId"], "--expires", "2027-07-01T12:00", "--json"))
    assert view["expiresAt"] == "2027-07-01T16:00:00.000Z"
    view = ok_json(run("users", "limit", "ann", "--expires", "2027-01-31T00:00Z", "--json"))
    assert view["expiresAt"] == "2027-01-31T00:00:00.000Z"


def test_what_users_pay(run: Run, database) -> None:
    ok(run("users", "add", "ann", "--price-factor", "0.80", "--group", "resellers"))
    assert ok(run("users", "price", "ann")) == "ann: 0.8 times the prices, group resellers\n"
    view = ok_json(run("users", "price", "ann", "--price-factor", "none", "--json"))
    assert (view["priceFactor"], view["group"]) == (None, "resellers")
    text = ok(run("users", "price", "ann", "--group", "none"))
    assert text == "ann: no factor of their own, no group\n"
    assert {"priceFactor", "group"}.isdisjoint(database.usersNew.find_one({"_id": "ann"}))
    for options, says in (
        (("--price-factor", "11"), "--price-factor takes a decimal from 0 to 10"),
        (("--price-factor", "x"), "--price-factor takes a decimal such as 0.8"),
        (("--group", "a b"), "--group takes 1 to 64 letters"),
    ):
        assert says in failed(run("users", "price", "ann", *options), 2)
        assert says in failed(run("users", "add", "bob", *options), 2)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--budget", "10"), "--budget takes budgets such as"),
        (("--budget", "10/year"), "--budget per: takes one of"),
        (("--expires", "soon"), "--expires takes a time"),
        (("--expires", "9999-12-31"), "--expires takes a time in the years 2000 to 2200"),
        (("--models", "x" * 200), "--models takes at most"),
        (("--tpm", "-1"), "--tpm"),
    ],
)
def test_limits_that_cannot_be_name_the_option(run: Run, options: tuple[str, str], says: str) -> None:
    ok(run("users", "add", "ann"))
    assert says in failed(run("users", "limit", "ann", *options), 2)


def test_a_key_is_rotated(run: Run, database) -> None:
    made = ok_json(run("users", "add", "ann", "--json"))
    rotated = ok_json(run("client-keys", "rotate", made["keyId"], "--overlap-hours", "0.5", "--json"))
    assert rotated["id"] == made["keyId"]
    assert rotated["apiKey"] != made["apiKey"]
    assert len(database.user_keys.find_one({"_id": made["keyId"]})["secrets"]) == 2
    text = ok(run("client-keys", "rotate", made["keyId"]))
    assert "The secret before is accepted for 24 hours more." in text
    assert "no client key" in failed(run("client-keys", "rotate", "wk_unknown"))
    failed(run("client-keys", "rotate", made["keyId"], "--overlap-hours", "-1"), 2)
