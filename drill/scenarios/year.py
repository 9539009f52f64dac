"""A simulated year of fifty users in three zones: every statement adds up, closed months never change."""

from random import Random

from app.store.connection import connect
from drill.report import Findings
from drill.stage import Drill
from drill.store import Store
from drill.year import ZONES, Year, YearPlan


def year(drill: Drill) -> Findings:
    """Let a year pass in each zone; what it found of money is in the figures."""
    findings, level = Findings("year"), drill.level
    for number, zone in enumerate(ZONES):
        users = level.year_users // len(ZONES) + (number < level.year_users % len(ZONES))
        plan = YearPlan(users, level.year_requests, restarts=12, outages=8, summed=4)
        directory = drill.directory / f"year-{number}"
        directory.mkdir()
        random = Random(drill.random.random())  # noqa: S311  not for secrets
        with Store(directory / "store") as store:
            database = connect(store.uri, "year")
            outcome = Year(database, directory / "journal", zone, plan, random, drill.console.say).run()
            database.client.close()
        for problem in outcome.problems:
            findings.problem(problem)
        figures = outcome.figures
        findings.requests += figures["requests"]
        findings.records += figures["records"]
        findings.interrupted += figures["requests interrupted"]
        findings.kills += figures["restarts"]
        findings.lost += max(0, figures["requests"] - figures["records"])
        findings.duplicated += max(0, figures["records"] - figures["requests"])
        findings.figures[zone] = dict(sorted(figures.items()))
        findings.figures[f"{zone}, SHA-256 of the closed months"] = {
            month: sha256[:12] for month, sha256 in outcome.hashes.items()
        }
    findings.whole = findings.records
    findings.expect(not findings.lost, f"{findings.lost} requests left no record")
    findings.expect(not findings.duplicated, f"{findings.duplicated} records too many")
    return findings
