"""`weir restore FILE`: a backup, put into an empty database."""

import time
from collections.abc import Mapping
from typing import Any, BinaryIO

import click
from pymongo.errors import PyMongoError

from app.backup import restoring
from app.backup.format import BackupFileError, BackupReader
from app.backup.restoring import Restored, RestoreRefused
from app.cli.backup_progress import byte_progress, document_progress
from app.cli.base import Command, cipher_of, current_settings, fail, json_option, shell_actor
from app.cli.output import print_json, shown
from app.cli.store import open_store
from app.common.clock import now_ms
from app.common.errors import StoreUnavailable
from app.settings import Settings, existing_secret_key
from app.store.deployment import take_secret_key
from app.store.driver import store_problem


@click.command("restore", cls=Command)
@click.argument("file", type=click.Path(path_type=str))
@click.option(
    "--discard-incomplete",
    is_flag=True,
    help="First drop what an interrupted restore has left. Be sure that it does not run any more.",
)
@json_option
def command(file: str, discard_incomplete: bool, as_json: bool) -> None:
    """Put the backup in FILE into an empty database; no proxy may run on it.

    The whole file is checked before anything is written. Afterwards: weir verify.
    """
    if file == "-":
        raise click.UsageError(
            "a backup is read twice, which standard input cannot be: save it in a FILE first"
        )
    settings = current_settings()
    started = time.monotonic()
    try:
        with _opened(file) as opened:
            name, header, done = _restore(settings, opened, discard_incomplete=discard_incomplete)
    except RestoreRefused as error:
        fail(str(error))
    except BackupFileError as error:
        fail(f"{file}: {error}")
    seconds = time.monotonic() - started
    records = done.counts.get("request_logs", 0) - done.left_out
    others = sum(done.counts.values()) - done.counts.get("request_logs", 0)
    if as_json:
        print_json(
            {
                "database": name,
                "startedAt": header["startedAt"],
                "records": records,
                "otherDocuments": others,
                "recordsLeftOut": done.left_out,
                "remarks": done.remarks,
                "seconds": round(seconds, 3),
            }
        )
        return
    for remark in done.remarks:
        click.echo(f"warning: {shown(remark)}", err=True)
    click.echo(
        f"Restored into {name}, as of {shown(header['startedAt'])}: {records:,} records and {others:,} other "
        f"documents, {seconds:.1f} s. Now: weir verify"
    )


def _opened(file: str) -> BinaryIO:
    try:
        return open(file, "rb")
    except OSError as error:
        fail(f"{file}: {error.strerror}")


def _restore(
    settings: Settings, opened: BinaryIO, *, discard_incomplete: bool
) -> tuple[str, Mapping[str, Any], Restored]:
    size = opened.seek(0, 2)
    reader = BackupReader(opened)
    with byte_progress("checking the file", 2 * size) as looked_at:
        header = reader.verify(looked_at)
    restoring.check_secret(header, cipher_of(settings))
    total = sum(reader.counts.values())
    with open_store(settings, any_secret_key=True, whole=not discard_incomplete) as db:
        if discard_incomplete:
            restoring.discard_incomplete(db)
        restoring.check_empty(db)
        # The database is empty: what `weir init` made of another SECRET_KEY stands for nothing.
        take_secret_key(db, existing_secret_key(settings))
        with document_progress("restoring", total) as progress:
            try:
                done = restoring.restore_database(
                    db, reader, now_ms(), shell_actor().name, progress, tz=settings.tz
                )
            except (PyMongoError, StoreUnavailable, OSError, BackupFileError) as error:
                reason = store_problem(error) if isinstance(error, PyMongoError) else str(error)
                fail(f"{reason}; database {db.name} is not whole now: repeat with --discard-incomplete")
            except KeyboardInterrupt:
                fail(f"interrupted; database {db.name} is not whole now: repeat with --discard-incomplete")
        return db.name, header, done
