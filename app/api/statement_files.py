"""A user's statement as a file: CSV, or a page that prints."""

from datetime import datetime
from typing import Literal

from flask import Response
from pydantic import Field

from app.api.downloads import csv_download
from app.api.operation import Query
from app.management.reading import Month, Statement, statement_csv, statement_html


class StatementQuery(Query):
    """In which form."""

    format: Literal["json", "csv", "html"] = Field("json", description="`html` prints well.")


def statement_file(month: Month, statement: Statement, form: str, *, status: str, at: datetime) -> Response:
    """Answer with the statement in a form that is not JSON; `status` is the month's, as of `at`."""
    if form == "csv":
        return csv_download(statement_csv(month, statement), f"statement-{month.name}")
    page = statement_html(month, statement, status=status, at=at)
    answer = Response(page, content_type="text/html; charset=utf-8")
    answer.headers["Content-Security-Policy"] = "default-src 'none'; style-src 'unsafe-inline'"
    answer.headers["X-Content-Type-Options"] = "nosniff"
    return answer
