"""What the dashboard and the alerts ask for exists, and every alert has its place in the runbook."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
import yaml

from app.metrics import metric_names as names
from app.metrics.metric_names import METRICS, MetricSpec
from app.settings import ROOT

DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "weir.json").read_text(encoding="utf-8"))
RULES_FILE = ROOT / "deploy" / "prometheus" / "weir-alerts.yml"
ALERTS = yaml.safe_load(RULES_FILE.read_text(encoding="utf-8"))["groups"][0]["rules"]
RUNBOOK = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
DOCUMENTED = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")

SPECS = {spec.name: spec for spec in METRICS}
SCRAPED = {"instance", "job"}
"""Labels that Prometheus adds."""
VALUES = {
    "format": names.FORMATS,
    "outcome": names.OUTCOMES,
    "kind": names.TOKEN_KINDS,
    "reason": {*names.REASONS, names.OTHER},
    "result": names.ADMISSIONS,
    "state": names.KEY_STATES,
    "status": {str(status) for status in range(100, 600)} | {names.NO_ANSWER, names.OTHER},
}


def panels() -> Iterator[dict[str, Any]]:
    return (panel for panel in DASHBOARD["panels"] if panel["type"] != "row")


def queries() -> list[tuple[str, str]]:
    """Where each query stands, and the query."""
    shown = [(panel["title"], target["expr"]) for panel in panels() for target in panel["targets"]]
    return shown + [(rule["alert"], rule["expr"]) for rule in ALERTS]


def spec_of(series: str) -> tuple[MetricSpec | None, set[str]]:
    """The metric that a series belongs to, and the labels the series has."""
    for suffix, more in (("", set[str]()), ("_bucket", {"le"}), ("_sum", set[str]()), ("_count", set[str]())):
        spec = SPECS.get(series.removesuffix(suffix)) if series.endswith(suffix) else None
        if spec is not None and (spec.kind == "histogram") is bool(suffix):
            return spec, {*spec.labels, *more, *SCRAPED}
    return None, SCRAPED if series == "up" else set()


def parts(expression: Any) -> Iterator[Any]:
    """An expression of PromQL and all that is in it."""
    yield expression
    for name in ("lhs", "rhs", "expr", "vector_selector", "param"):
        inner = getattr(expression, name, None)
        if inner is not None:
            yield from parts(inner)
    for argument in getattr(expression, "args", None) or ():
        yield from parts(argument)


def parsed(query: str) -> Any:
    """Grafana's variables stand for what they are replaced by."""
    return promql_parser.parse(
        query.replace("$__rate_interval", "5m").replace("$instance", "a").replace("$model", "m")
    )


def faults(query: str) -> list[str]:
    """What in a query is not there."""
    found = []
    known: set[str] = set()
    everything = list(parts(parsed(query)))
    for part in everything:
        if not isinstance(part, promql_parser.VectorSelector):
            continue
        spec, labels = spec_of(part.name or "")
        known |= labels
        if not labels:
            found.append(f"no metric {part.name}")
        for matcher in part.matchers.matchers:
            if matcher.name not in labels:
                found.append(f"{part.name} has no label {matcher.name}")
            wanted = re.compile(matcher.value)
            values = VALUES.get(matcher.name)
            if spec and values and not any(wanted.fullmatch(value) for value in values):
                found.append(f"{matcher.name} is never {matcher.value}")
    for part in everything:
        modifier = getattr(part, "modifier", None)
        if isinstance(part, promql_parser.AggregateExpr) and modifier is not None:
            found += [f"no label {label}" for label in modifier.labels if label not in known]
    return found


@pytest.mark.parametrize(("place", "query"), queries(), ids=[place for place, _ in queries()])
def test_a_query_asks_for_what_there_is(place: str, query: str) -> None:
    assert faults(query) == [], place


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("weir_request_total", "no metric weir_request_total"),
        ("weir_overhead_seconds", "no metric weir_overhead_seconds"),
        ("weir_workers_bucket", "no metric weir_workers_bucket"),
        ('rate(weir_requests_total{user="ann"}[5m])', "weir_requests_total has no label user"),
        ('weir_upstream_keys{state="dead"}', "state is never dead"),
        ('sum by (key) (rate(weir_requests_total{outcome=~"ok|x"}[5m])) > 1', "no label key"),
    ],
)
def test_a_query_that_is_wrong_is_found(query: str, fault: str) -> None:
    assert faults(query) == [fault]


def test_the_expressions_of_the_documentation_are_right_too() -> None:
    table = DOCUMENTED.partition("## What to watch")[2].partition("\n## ")[0]
    found = re.findall(r"^\| `(.+?)` \|", table, re.MULTILINE)
    assert len(found) > 5
    assert {query: wrong for query in found if (wrong := faults(query))} == {}


def test_the_dashboard_shows_every_metric() -> None:
    shown = " ".join(target["expr"] for panel in panels() for target in panel["targets"])
    assert [name for name in SPECS if name not in shown] == []


def test_a_legend_names_labels_of_its_query() -> None:
    for panel in panels():
        for target in panel["targets"]:
            for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
                assert re.search(rf"by \([^)]*\b{label}\b|^weir_", target["expr"]), (panel["title"], label)


def test_the_panels_fit_side_by_side() -> None:
    seen: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & seen, panel["title"]
        seen |= cells
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))


def test_the_variables_of_the_dashboard_ask_for_what_there_is() -> None:
    for variable in DASHBOARD["templating"]["list"][1:]:
        metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"]).groups()
        assert label in spec_of(metric)[1]


@pytest.mark.parametrize("rule", ALERTS, ids=[rule["alert"] for rule in ALERTS])
def test_an_alert_says_what_happens_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("page", "warn")
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"
    section = RUNBOOK.partition(f"\n### {rule['alert']}\n")[2].partition("\n#")[0]
    assert "**Means**" in section
    assert "**Do**" in section


def test_the_runbook_knows_no_other_alerts() -> None:
    assert re.findall(r"^### (Weir\w+)$", RUNBOOK, re.MULTILINE) == [rule["alert"] for rule in ALERTS]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
@pytest.mark.parametrize("command", [("check", "weir-alerts.yml"), ("test", "weir-alerts.test.yml")])
def test_promtool_agrees(command: tuple[str, str]) -> None:
    verb, file = command
    done = subprocess.run(
        ["promtool", verb, "rules", file], cwd=RULES_FILE.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
