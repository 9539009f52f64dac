"""`weir verify`: one-command reconciliation of everything that is stored."""

import click

from app.cli.base import Command, cipher_of, current_settings, json_option, shell_actor
from app.cli.output import print_json, print_table, shown, usd
from app.cli.period_option import period_of, period_options
from app.cli.store import Store, open_store
from app.common.clock import now_ms
from app.common.cursor import FilterError
from app.common.display import counted, iso_utc
from app.management.administration import build_administration, build_books
from app.management.views.upstream_books import upstream_books_view
from app.records.log_filter import parse_moment
from app.settings import Settings
from app.statistics.periods import YESTERDAY, Period
from app.verify.reconcile import CheckResult, Consistency, Difference, report_json
from app.verify.reconciliation import Reconciliation

_SIGNS = {
    Consistency.OK: "✓",
    Consistency.DIFFERS: "✗",
    Consistency.PENDING: "…",
    Consistency.NOT_CHECKED: "–",
}
_COLOURS = {
    Consistency.OK: "green",
    Consistency.DIFFERS: "red",
    Consistency.PENDING: "yellow",
    Consistency.NOT_CHECKED: None,
}


@click.command("verify", cls=Command)
@click.option("--since", help="Only records from then on: 2026-11-23, 2026-11-23T10:00:00Z, or 24h, 7d ago.")
@click.option(
    "--repair-holds", is_flag=True, help="First remove holds on credit that no process owns any more."
)
@click.option(
    "--repair-budgets", is_flag=True, help="First put right what budgets hold less or more than was charged."
)
@click.option(
    "--upstream", is_flag=True, help="Compare what OhMyGPT says it charged for each key, and nothing else."
)
@period_options(YESTERDAY)
@json_option
@click.pass_context
def command(  # noqa: PLR0913  (each is an option)
    ctx: click.Context,
    since: str | None,
    repair_holds: bool,
    repair_budgets: bool,
    upstream: bool,
    period: str | None,
    from_: str | None,
    to: str | None,
    as_json: bool,
) -> None:
    """Check that journal, records, hourly sums, credits and counters all say the same.

    Works beside running proxies. Exit status 1 if something differs; what is not booked yet is pending,
    which is no difference. docs/verify.md says what is compared and what to do.

    With --upstream exit status 0 says that each key that could be compared agrees, and 1 that one differs
    by more than UPSTREAM_COST_DRIFT, or that nothing could be compared.
    """
    if upstream:
        if since or repair_holds or repair_budgets:
            raise click.UsageError("--upstream takes only a period and --json")
        ctx.exit(0 if _compare_books(period_of(period, from_, to, YESTERDAY), as_json) else 1)
    if period or from_ or to:
        raise click.UsageError("--period, --from and --to go with --upstream")
    at, settings = now_ms(), current_settings()
    try:
        start = parse_moment("--since", since, at, settings.tz) if since else None
    except FilterError as error:
        raise click.UsageError(str(error)) from None
    done = []
    with open_store(settings, reads_only=not (repair_holds or repair_budgets)) as db:
        repaired = _repair_holds(settings, db, as_json) if repair_holds else {}
        repaired |= _repair_budgets(settings, db, as_json) if repair_budgets else {}
        for result in _checks(settings, db).run(at, start):
            done.append(result)
            if not as_json:
                _print(result)
    report = report_json(done)
    if as_json:
        print_json({"checkedAt": iso_utc(at), **repaired, **report})
    else:
        _print_details(done)
    if not report["consistent"]:
        ctx.exit(1)


def _compare_books(period: Period, as_json: bool) -> bool:
    """Show OhMyGPT's books beside the own ones; return whether they agree."""
    settings = current_settings()
    with open_store(settings, reads_only=True) as db:
        view = upstream_books_view(build_books(settings, db).fees(period), period)
    if as_json:
        print_json(view)
        return view["agrees"]
    rows = [*view["keys"], *([view["total"]] if view["total"] else [])]
    if view["begins"]:
        click.echo(f"From {view['begins']} to {view['ends']}, the readings within the period ({period}):")
        print_table(
            ("KEY", "USED FEE>", "OHMYGPT>", "BOOKED>", "DRIFT %>", "VERDICT"),
            (
                (
                    row["key"] or "all compared",
                    row["usedFee"],
                    None if row["upstreamCostNanoUsd"] is None else usd(row["upstreamCostNanoUsd"]),
                    usd(row["costNanoUsd"]),
                    None if row["driftPercent"] is None else f"{row['driftPercent']:+.2f}",
                    row["verdict"],
                )
                for row in rows
            ),
            "The pool has no key that OhMyGPT tells of.",
        )
    if view["problem"]:
        click.echo(f"Nothing was compared: {view['problem']}.")
    return view["agrees"]


def _checks(settings: Settings, db: Store) -> Reconciliation:
    return Reconciliation(
        db,
        retention_s=settings.log_retention_s,
        journal_root=str(settings.data_dir / "journal"),
        tz=settings.tz,
    )


def _repair_holds(settings: Settings, db: Store, as_json: bool) -> dict[str, int]:
    """Remove orphaned holds; return what the JSON report says of them, which people are told at once."""
    removed = build_administration(settings, db, cipher_of(settings)).users.repair_holds(shell_actor())
    if not as_json:
        click.echo(f"Orphaned holds removed: {removed}")
    return {"orphanedHoldsRemoved": removed}


def _repair_budgets(settings: Settings, db: Store, as_json: bool) -> dict[str, int]:
    """Put budgets right; return and tell the same as of holds."""
    wrong = _checks(settings, db).wrong_budgets(now_ms())
    users = build_administration(settings, db, cipher_of(settings)).users
    repaired = users.repair_budgets(shell_actor(), wrong)
    if not as_json:
        click.echo(f"Periods of budgets put right: {repaired}")
    return {"budgetPeriodsRepaired": repaired}


def _print(result: CheckResult) -> None:
    sign = click.style(_SIGNS[result.state], fg=_COLOURS[result.state], bold=True)
    counts = [counted(result.compared, result.unit)]
    if result.difference_count:
        counts.append(f"{result.difference_count} differ")
    if result.pending_count:
        counts.append(f"{result.pending_count} pending")
    click.echo(f"{sign} {result.title}: {', '.join(counts)}")
    for note in result.notes:
        click.echo(f"    {shown(note)}")


def _print_details(results: list[CheckResult]) -> None:
    for heading, rows, count in (
        (
            "Differences",
            [(result, found) for result in results for found in result.differences],
            sum(result.difference_count for result in results),
        ),
        (
            "Pending",
            [(result, found) for result in results for found in result.pending],
            sum(result.pending_count for result in results),
        ),
    ):
        if rows:
            click.echo(f"\n{heading} ({count}):")
            _print_rows(rows)
    if not any(result.difference_count for result in results):
        click.echo("Everything agrees.")


def _print_rows(rows: list[tuple[CheckResult, Difference]]) -> None:
    print_table(
        ("CHECK", "WHAT", "WHERE", "EXPECTED>", "FOUND>", "HINT"),
        (
            (result.name, found.what, found.where, found.expected, found.found, found.hint)
            for result, found in rows
        ),
        "",
    )
