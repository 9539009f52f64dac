"""Alerts that really leave: by e-mail and to a webhook, through the process that sends them."""

import json
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from app.alerts import delivery
from app.alerts.conditions import trial
from app.alerts.delivery import deliver
from app.cli import commands_app
from app.settings import Settings
from tests.support.receivers import MailServer, Webhook, receiving

ALERT = trial(datetime(2026, 11, 30, tzinfo=UTC))


def test_mail_and_webhook_get_it_and_the_broken_do_not_keep_it_from_them() -> None:
    with receiving(MailServer()) as mail, receiving(Webhook()) as hook:
        urls = [
            "nonsense://user:hidden-password@host/hidden-token",
            f"mailto://127.0.0.1:{mail.port}/?mode=insecure&smtp=127.0.0.1&from=weir@example.com&to=ops@example.com",
            f"json://127.0.0.1:{hook.port}/hidden-token",
            "json://127.0.0.1:1/hidden-token",
        ]
        done = deliver(ALERT, urls, [0, 1, 2, 3])
    assert [one.problem for one in done] == [
        "it is no URL that apprise knows", None, None, "it was not taken"
    ]  # fmt: skip
    assert [one.name for one in done] == ["1 (nonsense)", "2 (mailto)", "3 (json)", "4 (json)"]
    assert "hidden" not in str(done)
    (message,) = mail.mails
    assert "Subject: Weir: a test" in message
    assert "What to do: nothing" in message
    (body,) = hook.bodies
    assert (body["title"], body["message"]) == (ALERT.title, ALERT.text)


def test_a_destination_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(*_: object, timeout: float, **__: object) -> None:
        raise subprocess.TimeoutExpired("send", timeout, output=b"sent\n")

    monkeypatch.setattr(delivery.subprocess, "run", endless)
    done = deliver(ALERT, ["json://a", "json://b"], [0, 1])
    assert [one.problem for one in done] == [None, "it took longer than a minute"]


def test_one_that_ends_without_a_word_has_sent_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "send.py"
    broken.write_text("raise SystemExit(1)")
    monkeypatch.setattr(delivery, "_PROGRAM", broken)
    (done,) = deliver(ALERT, ["json://a"], [0])
    assert done.problem == "apprise does not run here"


def test_the_commands(mongo_uri: str, database: Any, tmp_path: Path) -> None:
    def run(*arguments: str, urls: str = "") -> Any:
        settings = Settings(
            mongodb_uri=mongo_uri, mongodb_db_name=database.name, data_dir=tmp_path / "var", alert_urls=urls
        )
        return CliRunner().invoke(commands_app(settings).cli, arguments)

    assert run("init").exit_code == 0
    assert "Nothing has needed anybody yet" in run("alerts", "list").output
    nobody = run("alerts", "test")
    assert (nobody.exit_code, "ALERT_URLS is not set" in nobody.output) == (1, True)
    with receiving(Webhook()) as hook:
        url = f"json://127.0.0.1:{hook.port}/hidden-token"
        began = time.monotonic()
        done = run("alerts", "test", urls=f"{url}\nnonsense://hidden-token")
        assert time.monotonic() - began < delivery.TIMEOUT_S
        assert done.exit_code == 1
        assert "hidden" not in done.output
        assert "it is no URL that apprise knows" in done.output
        assert len(hook.bodies) == 1
    entry = database["admin_audit"].find_one({"action": "alerts.test"})
    assert entry["outcome"] == "done"
    assert json.loads(run("alerts", "list", "--json").stdout) == {"alerts": []}
