"""`weir statements …`: months, user by user; closing them, writing them out."""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from app.billing.statement import ROW_NAMES, Month, Statement, by_model
from app.billing.statement_text import rows_csv, statement_csv, statement_html
from app.billing.statements import CLOSED, Statements
from app.cli.base import Group, cipher_of, current_settings, fail, json_option, shell_actor
from app.cli.output import print_json, print_table, usd
from app.cli.store import Store, open_store
from app.common.clock import now_ms
from app.common.cursor import FilterError
from app.management.administration import build_administration
from app.management.statements import StatementAdmin
from app.settings import Settings
from app.verify.reconciliation import Reconciliation

_LONGEST_NAME = 120


@click.group("statements", cls=Group)
def command() -> None:
    """Bill months: what each user had, was given, used and has left."""


@command.command("list")
@json_option
def list_months(as_json: bool) -> None:
    """Show the months there are, and which are closed."""
    settings = current_settings()
    with open_store(settings, reads_only=True) as db:
        months = Statements(db, settings.tz).months(now_ms())
    if as_json:
        print_json({"months": months})
        return
    print_table(
        ("MONTH", "STATE", "USERS>", "CHARGES>", "CLOSED AT", "BY", "SHA-256"),
        (
            (
                month["month"],
                _state(month),
                month.get("users"),
                usd(month["sums"]["chargesNanoUsd"]) if "sums" in month else None,
                month.get("closedAt"),
                month.get("closedBy"),
                month.get("sha256", "")[:16],
            )
            for month in months
        ),
        "Nothing was booked yet.",
    )


@command.command("show")
@click.argument("month")
@click.argument("user", required=False)
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@json_option
def show(month: str, user: str | None, as_csv: bool, as_json: bool) -> None:
    """Show MONTH (2026-11), user by user, or the whole statement of one USER."""
    with _open(month) as (statements, asked, _):
        now = now_ms()
        if user is not None:
            _show_one(statements, asked, user, as_csv, as_json)
            return
        _warn_before(asked, now)
        found = statements.statements(asked, statements.users(asked, now), now)
        if as_csv:
            _write(rows_csv(asked, found))
        elif as_json:
            print_json(statements.head(asked, now) | {"rows": [each.row() for each in found]})
        else:
            print_table(
                ("USER", "OPENING>", "CREDITS>", "DEBITS>", "CHARGES>", "LATE>", "CLOSING>", "REQUESTS>"),
                (_cells(each) for each in found),
                f"Nobody has a statement of {asked.name}.",
            )


def _state(month: Mapping[str, Any]) -> str:
    if month["isOver"]:
        return str(month["state"])
    return f"{month['state']}, {'running' if month['hasBegun'] else 'not begun'}"


def _warn_before(month: Month, now: datetime) -> None:
    """Say of a month that has not begun that it has not: all figures are those of now, or nothing."""
    if not month.has_begun(now):
        click.echo(f"{month.name} has not begun yet.", err=True)


def _show_one(statements: Statements, month: Month, user: str, as_csv: bool, as_json: bool) -> None:
    now = now_ms()
    _warn_before(month, now)
    found = statements.statement(month, user, now)
    if found is None:
        fail(f"there is no user {user}")
    if as_csv:
        _write(statement_csv(month, found))
        return
    if as_json:
        late = statements.late(month, user, now)
        print_json(statements.head(month, now) | {"statement": found.to_json(), "late": late})
        return
    print_table(
        ("USER", "OPENING>", "CREDITS>", "DEBITS>", "CHARGES>", "LATE>", "CLOSING>", "REQUESTS>"),
        [_cells(found)],
        "",
    )
    print_table(
        ("MODEL", "REQUESTS>", "COST>"),
        ((model, requests, usd(nano)) for model, requests, nano in by_model(found.charges)),
        f"No requests in {month.name}.",
    )
    if found.unexplained_nano:
        click.echo(
            f"{usd(found.unexplained_nano)} of the balance is not explained by the books: see `weir verify`.",
            err=True,
        )


@command.command("close")
@click.argument("month")
@click.option("--anyway", is_flag=True, help="Also if `weir verify` finds differences.")
@json_option
def close(month: str, anyway: bool, as_json: bool) -> None:
    """Freeze all statements of MONTH, for good; what is booked into it later appears in the next one."""
    settings = current_settings()
    with open_store(settings) as db:
        audit = build_administration(settings, db, cipher_of(settings)).audit
        statements = Statements(db, settings.tz)
        _parsed(statements, month)
        closed = StatementAdmin(statements, audit).close(
            shell_actor(),
            month,
            lambda: _verifier(settings, db).report(now_ms()),
            anyway=anyway,
            progress=_progress(as_json),
        )
    if as_json:
        print_json(closed)
        return
    charges = usd(closed["sums"]["chargesNanoUsd"])
    click.echo(f"{month} is closed: {closed['users']:,} statements, {charges} charged.")
    click.echo(f"SHA-256 {closed['sha256']}")


@command.command("export")
@click.argument("month")
@click.option(
    "--dir", "directory", type=click.Path(path_type=Path, file_okay=False), required=True, help="Where to."
)
@click.option(
    "--format",
    "forms",
    type=click.Choice(("csv", "html", "json")),
    multiple=True,
    default=("csv",),
    show_default=True,
    help="May be given several times.",
)
@json_option
def export(month: str, directory: Path, forms: tuple[str, ...], as_json: bool) -> None:
    """Write every statement of MONTH into files of a directory, and all sums into statements.csv."""
    with _open(month) as (statements, asked, _):
        now = now_ms()
        head = statements.head(asked, now)
        users = statements.users(asked, now)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        say, done = _progress(as_json), 0

        def written() -> Iterator[Statement]:
            nonlocal done
            for each in statements.statements(asked, users, now):
                for form in dict.fromkeys(forms):
                    path = directory / f"{_file_name(each.user)}.{form}"
                    _put(path, _text_of(asked, each, form, head["state"]))
                done += 1
                say(done, len(users))
                yield each

        _put(directory / "statements.csv", "".join(f"{line}\r\n" for line in rows_csv(asked, written())))
    if as_json:
        print_json(head | {"directory": str(directory), "statements": done})
    else:
        state = "as it was closed" if head["state"] == CLOSED else "not closed yet: it may still change"
        click.echo(f"{done:,} statements of {month} are in {directory} ({state}).")


def _text_of(month: Month, statement: Statement, form: str, state: str) -> str:
    if form == "csv":
        return "".join(f"{line}\r\n" for line in statement_csv(month, statement))
    if form == "html":
        return statement_html(month, statement, status=state, at=now_ms())
    return json.dumps(month.to_json() | statement.to_json(), indent=1, ensure_ascii=False) + "\n"


def _put(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="")
    path.chmod(0o600)


def _file_name(user: str) -> str:
    """Return a name that no user can make a path or another user's file of."""
    name = quote(user, safe="")
    if name.startswith(".") or name == "statements":
        name = f"%{ord(name[0]):02X}{name[1:]}"
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:_LONGEST_NAME]}~{hashlib.sha256(user.encode()).hexdigest()[:16]}"


def _cells(statement: Statement) -> tuple[object, ...]:
    row = statement.row()
    names = ROW_NAMES[1:7]
    return (
        statement.user,
        *(None if row[name] is None else usd(row[name]) for name in names),
        row["requestCount"],
    )


@contextmanager
def _open(month: str) -> Iterator[tuple[Statements, Month, Store]]:
    settings = current_settings()
    with open_store(settings, reads_only=True) as db:
        statements = Statements(db, settings.tz)
        yield statements, _parsed(statements, month), db


def _parsed(statements: Statements, month: str) -> Month:
    try:
        return statements.month(month)
    except FilterError:
        raise click.UsageError(f"MONTH takes one such as 2026-11, not {month[:40]!r}") from None


def _verifier(settings: Settings, db: Store) -> Reconciliation:
    journal_root = str(settings.data_dir / "journal")
    return Reconciliation(db, retention_s=settings.log_retention_s, journal_root=journal_root, tz=settings.tz)


def _progress(as_json: bool) -> Callable[[int, int], None]:
    """Return what tells people how far it is, on standard error."""
    if as_json or not sys.stderr.isatty():
        return lambda _done, _of: None

    def say(done: int, of: int) -> None:
        if done % 100 == 0 or done == of:
            click.echo(f"\r{done:,} of {of:,}", nl=done == of, err=True)

    return say


def _write(lines: Iterator[str]) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)
