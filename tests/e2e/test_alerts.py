"""Alerts of the running product: two workers, one message, and what is left of it after a restart."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from pymongo import MongoClient

from app.store.embedded_mongo import EmbeddedMongo
from simulator.launcher import wait_until
from tests.support.metrics_page import ADMIN_TOKEN, ask_json
from tests.support.receivers import Webhook, receiving
from tests.support.upstream_process import UpstreamProcess
from tests.support.weir_process import WeirProcess


def test_one_of_all_workers_tells_it_once_also_after_a_restart(
    upstream: UpstreamProcess, own_mongo: EmbeddedMongo, tmp_path: Path
) -> None:
    with MongoClient(own_mongo.uri) as client:
        ends = datetime.now(UTC) + timedelta(days=3)
        key = {"_id": "wk_0123456789abcdef", "name": "ann", "isActive": True, "expiresAt": ends}
        client["fproxy"]["user_keys"].insert_one(key)
    with receiving(Webhook()) as hook:
        weir = WeirProcess(
            tmp_path, upstream.url, MONGODB_URI=own_mongo.uri, WEB_CONCURRENCY="2", ADMIN_TOKEN=ADMIN_TOKEN,
            SECRET_KEY="a-secret-of-the-alert-tests", ALERT_URLS=f"json://127.0.0.1:{hook.port}/hidden-token",
        )  # fmt: skip
        with weir:
            wait_until(lambda: _sent(weir), what="the alert")
            weir.database["alerts"].delete_one({"_id": "look"})  # a minute later
        with weir:
            wait_until(lambda: weir.database["alerts"].find_one({"_id": "look"}), what="another look")
            (told,) = ask_json(weir, "/api/admin/alerts")["alerts"]
            entries = ask_json(weir, "/api/admin/audit?action=alerts.send")["entries"]
            assert weir.log_messages("ERROR") == []
        assert "hidden-token" not in weir.log_path.read_text()
    assert told["title"] == f"A client key of ann expires at {ends:%Y-%m-%d %H:%M} UTC"
    assert told["destinationsLeft"] == 0
    assert [body["title"] for body in hook.bodies] == [told["title"]]
    assert [(entry["outcome"], entry["actor"], entry["details"]) for entry in entries] == [
        ("done", "weir", {"to": ["1 (json)"]})
    ]


def test_ohmygpts_own_balance_is_told_of_when_it_is_low_and_when_it_is_used_up(
    own_mongo: EmbeddedMongo, tmp_path: Path
) -> None:
    key = "sk-management-0123456789"
    with receiving(Webhook()) as hook, UpstreamProcess() as upstream:
        upstream.account(management_key=key, balance="812.50")
        weir = WeirProcess(
            tmp_path, upstream.url, MONGODB_URI=own_mongo.uri, WEB_CONCURRENCY="2", ADMIN_TOKEN=ADMIN_TOKEN,
            SECRET_KEY="a-secret-of-the-alert-tests", ALERT_URLS=f"json://127.0.0.1:{hook.port}",
            OHMYGPT_MANAGEMENT_KEY=key, ALERT_LEAST_BALANCE="1000",
        )  # fmt: skip
        with weir:
            wait_until(lambda: _sent(weir), 240, "the first alert")
        assert [body["title"] for body in hook.bodies] == ["OhMyGPT's balance is low: 812.50"]
        with weir:
            upstream.account(balance="0.00")
            weir.database["ohmygpt_account"].update_one({"_id": "account"}, {"$unset": {"triedAt": ""}})
            wait_until(lambda: _sent(weir, 2), 240, "the second alert")
            assert weir.log_messages("ERROR") == []
            assert key not in weir.log_path.read_text()
    assert [body["title"] for body in hook.bodies[1:]] == ["OhMyGPT's balance is used up"]
    assert "top up the account" in hook.bodies[1]["message"]


def _sent(weir: WeirProcess, number: int = 1) -> bool:
    return weir.database["alerts"].count_documents({"sentAt": {"$exists": True}}) == number
