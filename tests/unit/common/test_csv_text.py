import csv

import pytest

from app.common.csv_text import csv_lines


@pytest.mark.parametrize(
    "text",
    ["=1+1", "+15550100", "@sum", "-1+1", "-cmd", "-", "--1", "-1.2.3", "-1e5", "'-1", "\t1", "-1\n", "＝1"],
)
def test_what_a_spreadsheet_would_take_for_a_formula_is_guarded(text: str) -> None:
    lines = "\n".join(csv_lines(["text"], [[text]]))
    [_, [cell]] = csv.reader(lines.splitlines(keepends=True))
    assert cell == f"'{text}"


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a;=1", "a;'=1"),
        ("a,b;-1;+1", "a,b;'-1;'+1"),
        ("a\t@b", "a\t'@b"),
        ("a\r\n=1", "a\r\n'=1"),
        ("\t=1", "'\t'=1"),
        ("a;'", "a;''"),
        ("a;1=1-1", "a;1=1-1"),
    ],
)
def test_so_is_what_a_cell_begins_with_where_lines_are_cut_at_semicolons(text: str, written: str) -> None:
    lines = "\n".join(csv_lines(["text"], [[text]]))
    [_, [cell]] = csv.reader(lines.splitlines(keepends=True))
    assert cell == written


@pytest.mark.parametrize("text", ["-0.000334000", "-12", "0.5", "plain", ""])
def test_numbers_and_plain_text_are_written_as_they_are(text: str) -> None:
    [_, line] = csv_lines(["number", "text"], [[text, "x"]])
    assert line == f"{text},x"
