"""The metrics are a closed set with bounded labels, and the documentation describes exactly this set."""

import re
from pathlib import Path

import pytest

from app.credit.credit_gate import GateCounts
from app.keys.key_states import KeyStatus
from app.metrics import metric_names as names
from app.metrics.metric_names import METRICS, DistinctValues, MetricSpec, one_of, status_label

DOCS = (Path(__file__).resolve().parents[3] / "docs" / "metrics.md").read_text(encoding="utf-8")
_ROW = re.compile(r"^\| `(weir_\w+)` \| (\w+) \| (.+?) \| (.+) \|$", re.MULTILINE)
_LABEL_ROW = re.compile(r"^\| `(\w+)` \| (.+) \|$", re.MULTILINE)
LABELS = dict(_LABEL_ROW.findall(DOCS.partition("## Labels")[2].partition("\n## ")[0]))


def test_the_table_of_the_documentation_is_the_set() -> None:
    described = [
        (spec.name, spec.kind, ", ".join(f"`{label}`" for label in spec.labels) or "–", spec.help)
        for spec in METRICS
    ]
    assert _ROW.findall(DOCS) == described


def test_the_set_is_complete() -> None:
    assert {spec for spec in vars(names).values() if isinstance(spec, MetricSpec)} == set(METRICS)


@pytest.mark.parametrize("spec", METRICS, ids=lambda spec: spec.name)
def test_names_follow_the_conventions(spec: MetricSpec) -> None:
    assert re.fullmatch(r"weir_[a-z_]+", spec.name)
    assert spec.name.endswith("_total") is (spec.kind == "counter")
    assert list(spec.buckets) == sorted(set(spec.buckets))
    assert bool(spec.buckets) is (spec.kind == "histogram")
    assert set(spec.labels) <= LABELS.keys()


@pytest.mark.parametrize(
    ("label", "values"),
    [
        ("format", names.FORMATS),
        ("kind", (*names.TOKEN_KINDS, "units")),
        ("reason", names.REASONS),
        ("result", names.ADMISSIONS),
        ("state", names.KEY_STATES),
    ],
)
def test_the_values_of_a_label_are_documented(label: str, values: tuple[str, ...]) -> None:
    assert set(re.findall(r"`(\w+)`", LABELS[label])) == set(values)


def test_states_and_results_are_those_of_the_program() -> None:
    assert set(names.KEY_STATES) == set(map(str, KeyStatus))
    assert set(names.ADMISSIONS) == set(GateCounts.__slots__)


@pytest.mark.parametrize(
    ("status", "label"), [(200, "200"), (599, "599"), (None, "none"), (0, "other"), (99999, "other")]
)
def test_a_status_is_bounded(status: int | None, label: str) -> None:
    assert status_label(status) == label


def test_a_value_outside_its_set_is_other() -> None:
    assert [one_of(value, {"a"}) for value in ("a", "b", None)] == ["a", "other", "other"]


def test_only_so_many_distinct_values_pass() -> None:
    values = DistinctValues(2)
    assert [values.label(value) for value in "abcab"] == ["a", "b", "other", "a", "b"]
