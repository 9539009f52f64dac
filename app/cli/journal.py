"""`weir journal …`: what is on disk and not yet in MongoDB."""

from datetime import UTC, datetime
from typing import Any

import click

from app.cli.base import Group, current_settings, fail, json_option
from app.cli.output import print_json, print_table
from app.cli.store import open_store
from app.common.display import counted
from app.journal import Adopted, JournalPolicy, SlotReport, replay, survey
from app.persistence.booking import Booking
from app.settings import Settings

_MB = 1024 * 1024


@click.group("journal", cls=Group)
def command() -> None:
    """Show, or book, what is on disk and not yet in MongoDB."""


@command.command("status")
@json_option
def journal_status(as_json: bool) -> None:
    """Show every slot of the journal: who uses it, and what in it is not booked yet. Changes nothing."""
    settings = current_settings()
    if not settings.data_dir.is_dir():
        fail(f"there is no DATA_DIR {settings.data_dir}: set DATA_DIR as the service has it")
    reports = survey(_root(settings))
    if as_json:
        print_json(
            {
                "slots": [_slot(report) for report in reports],
                "unbooked": sum(report.unbooked for report in reports),
                "openRequests": sum(report.open_requests for report in reports),
                "bytes": sum(report.bytes for report in reports),
                "damaged": sum(report.damaged for report in reports),
            }
        )
        return
    print_table(
        ("SLOT", "WRITER", "IN USE", "SEGMENTS>", "KB>", "NOT BOOKED>", "SINCE", "OPEN>", "DAMAGED>"),
        (
            (
                report.slot,
                report.writer_id,
                report.is_owned,
                report.segments,
                -(-report.bytes // 1024),
                report.unbooked,
                _moment(report.oldest_ms),
                report.open_requests,
                report.damaged,
            )
            for report in reports
        ),
        f"There is no journal in {settings.data_dir} yet.",
    )
    left = [report for report in reports if not report.is_owned and (report.unbooked or report.open_requests)]
    if left:
        were = counted(len(left), "slots were", one="slot was")
        click.echo(f"{were} left behind: a running worker settles that, or weir journal replay")


@command.command("replay")
@json_option
def replay_journal(as_json: bool) -> None:
    """Book what processes that are gone left in the journal; running workers book their own.

    Requests found open get a record with outcome `interrupted`. Repeating it changes nothing. Exit status 1
    if something could not be booked.
    """
    settings = current_settings()
    policy = JournalPolicy(sync=settings.journal_sync, max_bytes=settings.journal_max_mb * _MB)
    with open_store(settings) as db:
        done = replay(
            _root(settings),
            lambda writer_id: Booking(db, writer_id, kept_s=settings.log_retention_s, tz=settings.tz),
            policy=policy,
        )
    records = sum(adopted.records for adopted in done)
    if as_json:
        print_json({"slots": [_adopted(adopted) for adopted in done], "records": records})
    else:
        print_table(
            ("SLOT", "RECORDS>", "INTERRUPTED>", "DAMAGED>", "SETTLED"),
            ((item.slot, item.records, item.interrupted, item.damaged, item.is_booked) for item in done),
            "Nothing was left behind.",
        )
    unbooked = [adopted.slot for adopted in done if not adopted.is_booked]
    if unbooked:
        fail(f"something is left in {', '.join(unbooked)}: put right what the log says, and replay again")


def _root(settings: Settings) -> str:
    return str(settings.data_dir / "journal")


def _moment(epoch_ms: int) -> datetime | None:
    return datetime.fromtimestamp(epoch_ms / 1000, UTC) if epoch_ms else None


def _slot(report: SlotReport) -> dict[str, Any]:
    return {
        "slot": report.slot,
        "writerId": report.writer_id,
        "isOwned": report.is_owned,
        "bytes": report.bytes,
        "segments": report.segments,
        "unbooked": report.unbooked,
        "openRequests": report.open_requests,
        "oldestUnbookedAt": _moment(report.oldest_ms),
        "damaged": report.damaged,
    }


def _adopted(adopted: Adopted) -> dict[str, Any]:
    return {
        "slot": adopted.slot,
        "records": adopted.records,
        "interrupted": adopted.interrupted,
        "damaged": adopted.damaged,
        "isBooked": adopted.is_booked,
    }
