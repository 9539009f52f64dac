"""`weir alerts …`: what operators are told without asking."""

import click

from app.alerts.alert_store import AlertStore
from app.alerts.conditions import trial
from app.alerts.delivery import deliver
from app.cli.base import Group, current_settings, fail, json_option, shell_actor
from app.cli.output import print_json, print_table
from app.cli.store import open_administration, open_store
from app.common.clock import now_ms
from app.management.views.alerts import alert_view


@click.group("alerts", cls=Group)
def command() -> None:
    """Show what operators were told, and try whether they would be."""


@command.command("list")
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True, help="How many.")
@json_option
def list_alerts(limit: int, as_json: bool) -> None:
    """List the newest alerts, and whether they arrived."""
    with open_store(current_settings(), reads_only=True) as db:
        found = [alert_view(stored) for stored in AlertStore(db).newest(limit)]
    if as_json:
        print_json({"alerts": found})
        return
    print_table(
        ("RAISED", "ALERT", "SENT", "PROBLEM"),
        (
            (
                alert["raisedAt"],
                alert["title"],
                alert["sentAt"] or ("given up" if alert["givenUpAt"] else "not yet"),
                alert["problem"],
            )
            for alert in found
        ),
        "Nothing has needed anybody yet. Destinations are in ALERT_URLS; weir alerts test tries them.",
    )


@command.command("test")
@json_option
def test(as_json: bool) -> None:
    """Send a test to every destination of ALERT_URLS, and say what came of it."""
    settings = current_settings()
    urls = [url.get_secret_value() for url in settings.alert_urls]
    if not urls:
        fail("ALERT_URLS is not set: nobody is told anything")
    with (
        open_administration(settings) as administration,
        administration.audit.action(shell_actor(), "alerts.test", "alerts"),
    ):
        done = deliver(trial(now_ms()), urls, range(len(urls)))
    if as_json:
        print_json({"destinations": [{"name": one.name, "problem": one.problem} for one in done]})
    else:
        print_table(
            ("DESTINATION", "RESULT"), ((one.name, one.problem or "sent") for one in done), "No destinations."
        )
    if any(one.problem for one in done):
        fail("not every destination has got it")
