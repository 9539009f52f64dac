"""`weir migrate …`: moving a database of earlier software over."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from pymongo.database import Database

from app.cli.base import Group, cipher_of, current_settings, fail, json_option
from app.cli.output import print_json, print_table
from app.cli.store import open_store
from app.common.clock import now_ms
from app.common.display import counted
from app.migration.plan import STEP_NAMES, left_alone, steps, turn
from app.migration.step import IncompleteError, MigrationError, Progress, Step, StepReport
from app.settings import existing_secret_key
from app.store.deployment import adopt

_SAY_EVERY_S = 2.0

_only = click.option(
    "--only", multiple=True, type=click.Choice(STEP_NAMES), help="This step and no other; may be repeated."
)


@click.group("migrate", cls=Group)
def command() -> None:
    """Move a database of earlier software over. docs/migrating.md says what changes and why."""


@command.command("check")
@_only
@json_option
@click.pass_context
def check(ctx: click.Context, only: tuple[str, ...], as_json: bool) -> None:
    """Say what `apply` would do, and change nothing. Exit status 1 if there is anything to do."""
    with _database(reads_only=True) as (db, found):
        plan = [(step, step.look()) for step in _chosen(found, only)]
        untouched = left_alone(db)
    if as_json:
        rows = [_row(step, finding) for step, finding in plan]
        is_done = not any(finding.pending or finding.problems for _, finding in plan)
        print_json({"nothingToDo": is_done, "steps": rows, "leftAlone": untouched})
    else:
        _print(plan, untouched)
    if any(finding.pending or finding.problems for _, finding in plan):
        ctx.exit(1)


@command.command("apply")
@_only
@json_option
def apply(only: tuple[str, ...], as_json: bool) -> None:
    """Move the database over, step by step. May be repeated, and is taken up where it was interrupted."""
    done: list[dict[str, Any]] = []
    try:
        with _database() as (db, found), turn(db) as ours:
            adopt(db, existing_secret_key(current_settings()), now_ms())
            for step in _chosen(found, only):
                finding = step.look()
                for reason in finding.problems:
                    fail(f"{step.name}: {reason}")
                problem: str | None = None
                try:
                    count = step.apply(_progress(step, finding.pending, ours.renew))
                except IncompleteError as error:
                    count, problem = error.done, f"{step.name}: {error}"
                done.append({"name": step.name, "done": count, "unit": step.unit, "problem": problem})
                if not as_json:
                    click.echo(f"{'✗' if problem else '✓'} {step.title}: {counted(count, step.unit)}")
    except MigrationError as error:
        fail(str(error))
    if as_json:
        print_json({"steps": done})
    problems = [row["problem"] for row in done if row["problem"]]
    if problems:
        fail("; ".join(problems))


@contextmanager
def _database(*, reads_only: bool = False) -> Iterator[tuple[Database[dict[str, Any]], list[Step]]]:
    settings = current_settings()
    with open_store(settings, reads_only=reads_only) as db:
        yield db, steps(db, cipher_of(settings), settings.log_retention_s, now_ms(), settings.tz)


def _chosen(found: list[Step], only: tuple[str, ...]) -> list[Step]:
    return [step for step in found if not only or step.name in only]


def _progress(step: Step, pending: int, renew: Callable[[], None]) -> Progress:
    """Say now and then, on standard error, how far a long step is; keeps the turn."""
    said_at = time.monotonic()

    def progress(done: int) -> None:
        nonlocal said_at
        renew()
        if time.monotonic() - said_at >= _SAY_EVERY_S:
            said_at = time.monotonic()
            click.echo(f"  {step.name}: {done:,} of {pending:,} {step.unit}", err=True)

    return progress


def _row(step: Step, finding: StepReport) -> dict[str, Any]:
    return {
        "name": step.name,
        "title": step.title,
        "pending": finding.pending,
        "unit": step.unit,
        "notes": list(finding.notes),
        "problems": list(finding.problems),
    }


def _print(plan: list[tuple[Step, StepReport]], untouched: list[str]) -> None:
    print_table(
        ("STEP", "WOULD", "PENDING>", ""),
        ((step.name, step.title, f"{finding.pending:,}", step.unit) for step, finding in plan),
        "",
    )
    for step, finding in plan:
        for text in (*finding.problems, *finding.notes):
            click.echo(f"{step.name}: {text}")
    for text in untouched:
        click.echo(f"left as it is: {text}")
    if any(finding.pending for _, finding in plan):
        click.echo("Nothing was changed. Make a backup, then: weir migrate apply")
    else:
        click.echo("Nothing to do.")
