"""`flask journal …`: what is on disk and not yet in MongoDB."""

from datetime import UTC, datetime
from typing import Any

import click

from app.adapters.journal import Adopted, JournalPolicy, SlotReport, replay, survey
from app.adapters.mongo.settlement import Settlement
from app.cli.base import Group, current_settings, fail, json_option
from app.cli.output import print_json, print_table
from app.cli.store import open_store
from app.settings import Settings

_MB = 1024 * 1024


@click.group("journal", cls=Group)
def command() -> None:
    """What is on disk and not yet in MongoDB."""


@command.command("status")
@json_option
def journal_status(as_json: bool) -> None:
    """Show every slot of the journal: who uses it, and what in it is not booked yet. Changes nothing."""
    reports = survey(_root(current_settings()))
    if as_json:
        print_json(
            {
                "slots": [_slot(report) for report in reports],
                "unsettled": sum(report.unsettled for report in reports),
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
                report.unsettled,
                _moment(report.oldest_ms),
                report.open_requests,
                report.damaged,
            )
            for report in reports
        ),
        "There is no journal yet.",
    )
    left = [
        report for report in reports if not report.is_owned and (report.unsettled or report.open_requests)
    ]
    if left:
        click.echo(
            f"{len(left)} slots were left behind: a running worker settles them, or flask journal replay"
        )


@command.command("replay")
@json_option
def replay_journal(as_json: bool) -> None:
    """Book what processes that are gone left in the journal; running workers book their own.

    Requests found open get a record with outcome `interrupted`. Repeating it changes nothing. Exit status 1
    if something could not be settled.
    """
    settings = current_settings()
    policy = JournalPolicy(sync=settings.journal_sync, max_bytes=settings.journal_max_mb * _MB)
    with open_store(settings) as db:
        done = replay(_root(settings), lambda writer_id: Settlement(db, writer_id), policy=policy)
    records = sum(adopted.records for adopted in done)
    if as_json:
        print_json({"slots": [_adopted(adopted) for adopted in done], "records": records})
    else:
        print_table(
            ("SLOT", "RECORDS>", "INTERRUPTED>", "DAMAGED>", "SETTLED"),
            ((item.slot, item.records, item.interrupted, item.damaged, item.is_settled) for item in done),
            "Nothing was left behind.",
        )
    unsettled = [adopted.slot for adopted in done if not adopted.is_settled]
    if unsettled:
        fail(f"something is left in {', '.join(unsettled)}: put right what the log says, and replay again")


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
        "unsettled": report.unsettled,
        "openRequests": report.open_requests,
        "oldestUnsettledAt": _moment(report.oldest_ms),
        "damaged": report.damaged,
    }


def _adopted(adopted: Adopted) -> dict[str, Any]:
    return {
        "slot": adopted.slot,
        "records": adopted.records,
        "interrupted": adopted.interrupted,
        "damaged": adopted.damaged,
        "isSettled": adopted.is_settled,
    }
