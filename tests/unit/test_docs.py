"""What the documentation promises about the configuration is what the program does."""

import re
from pathlib import Path
from typing import Any

import pytest

from app.accounts.funds import DECISION_S
from app.accounts.read_cache import CachePolicy
from app.credit.credit_policy import HOLD_RENEWAL_S, HOLD_TTL_S
from app.exchange.exchange import STILL_KNOWN_S
from app.management.errors import ACTION_S
from app.settings import ROOT, Settings
from app.wires.endpoints import ENDPOINTS, UNKNOWN

_ROW = re.compile(r"^\| `([A-Z_]+)` \| (.+?) \| (.+) \|$", re.MULTILINE)
_NONE = "–"

TABLE = {
    name: (default, meaning)
    for name, default, meaning in _ROW.findall(
        (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    )
}


def test_every_endpoint_is_in_the_readme_and_its_name_where_records_are_described() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    records = (ROOT / "docs" / "records.md").read_text(encoding="utf-8")
    names = next(line for line in records.splitlines() if line.startswith("| `apiFormat`, `endpoint` |"))
    for endpoint in (*ENDPOINTS, UNKNOWN):
        assert f"`{endpoint.name}`" in names
    for endpoint in ENDPOINTS:
        assert f"`{endpoint.method} {endpoint.shown_path}`" in readme


_FIGURE = re.compile(r"(?<![\d.,])(\d[\d,.]*)(?= (?:MiB|KiB|plain requests))")


def test_figures_that_name_their_source_are_there() -> None:
    """A figure is measured once and quoted: a new measurement must leave no old one standing elsewhere."""
    measured = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    quoted = [
        (path.name, figure)
        for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
        for line in path.read_text(encoding="utf-8").splitlines()
        if "(performance.md)" in line
        for figure in _FIGURE.findall(line)
    ]
    assert quoted
    assert [found for found in quoted if found[1] not in measured] == []


_PATH = re.compile(r"`((?:app|workers|simulator|drill|bench|tools|tests)/[\w/.]+)`")


def test_files_that_pages_name_are_there() -> None:
    pages = (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))
    named = {(page.name, path) for page in pages for path in _PATH.findall(page.read_text(encoding="utf-8"))}
    assert named
    gone = {found for found in named if found[0] != "CHANGELOG.md" and not (ROOT / found[1]).exists()}
    assert gone == set()


def documented(name: str) -> str:
    """The default in the table, without its quotes."""
    default, _ = TABLE[name]
    return default if default == _NONE else default.strip("`")


def written(value: Any) -> str:
    """A default as a person writes it."""
    if value is None or value == ():
        return _NONE
    if isinstance(value, Path):
        return str(value.relative_to(ROOT)) if value.is_absolute() else f"./{value}"
    if isinstance(value, tuple):
        return ",".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_the_table_has_every_variable_and_no_other_in_the_order_of_the_settings() -> None:
    assert list(TABLE) == [field.upper() for field in Settings.model_fields]


@pytest.mark.parametrize("field", Settings.model_fields)
def test_a_default_in_the_table_is_the_real_one(field: str) -> None:
    assert documented(field.upper()) == written(Settings.model_fields[field].default)


@pytest.mark.parametrize("field", Settings.model_fields)
def test_a_default_in_the_table_can_be_set(field: str) -> None:
    name, default = field.upper(), documented(field.upper())
    if default != _NONE and not name.endswith(("_DIR", "_FILE")):
        assert getattr(Settings.from_env({name: default}), field) == getattr(Settings.from_env({}), field)


@pytest.mark.parametrize("field", Settings.model_fields)
def test_every_choice_is_explained(field: str) -> None:
    annotation = str(Settings.model_fields[field].annotation)
    choices = re.findall(r"'([^']+)'", annotation) if "Literal" in annotation else []
    _, meaning = TABLE[field.upper()]
    assert meaning.strip()
    assert [choice for choice in choices if f"`{choice}`" not in meaning] == []


@pytest.mark.parametrize(
    ("page", "words", "figure", "value"),
    [
        ("operations", "looked up within the last day", CachePolicy().outage_s, 86_400),
        ("durability", "looked up within the last day", CachePolicy().outage_s, 86_400),
        ("scaling", "looked up within the last day", CachePolicy().outage_s, 86_400),
        (
            "scaling",
            "renewed behind requests after 0.75 s, before them after 1.5 s",
            CachePolicy().fresh_s,
            0.75,
        ),
        (
            "scaling",
            "renewed behind requests after 0.75 s, before them after 1.5 s",
            CachePolicy().stale_s,
            1.5,
        ),
        ("hardening", "0.4 s after its head", STILL_KNOWN_S, 0.4),
        (
            "scaling",
            "two seconds at most, one for who it is and one for whether there is credit",
            DECISION_S,
            1,
        ),
        ("operations", "503 after eight seconds", ACTION_S, 8),
        ("scaling", "An admin's write waits eight seconds", ACTION_S, 8),
        ("architecture", "renews it every 45 s", HOLD_RENEWAL_S, 45),
        ("architecture", "ends after three minutes", HOLD_TTL_S, 180),
        ("verify", "an owner renews it every 45 s", HOLD_RENEWAL_S, 45),
        ("verify", "not renewed for three minutes", HOLD_TTL_S, 180),
    ],
)
def test_a_figure_in_words_is_the_one_in_the_code(page: str, words: str, figure: float, value: float) -> None:
    text = " ".join((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8").split())
    assert words in text
    assert figure == value
