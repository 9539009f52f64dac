"""Every operation is asked what its OpenAPI says it takes, and what it does not: answers keep their word.

The same questions each time (derandomised). `check_proxy` is left to tests of its own: it connects to
whatever host a proxy was given.
"""

from collections.abc import Iterator
from itertools import cycle
from typing import Any

import pytest
import schemathesis
from flask import Flask
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
)

from app.api.openapi import openapi_document
from tests.support.admin_api import Admin, admin_app
from tests.support.seeded import seed

EXAMPLES = 3


def checks_of(case: Case) -> list[Any]:
    """503 is what `/ready` is there to say; of any other route it is a failure here."""
    shape = [status_code_conformance, content_type_conformance, response_schema_conformance]
    return shape if case.operation.path == "/ready" else [not_a_server_error, *shape]


@pytest.fixture
def app(database, mongo_uri, tmp_path, monkeypatch) -> Iterator[Flask]:
    monkeypatch.setattr("app.accounts.users._ROUNDS", 1)
    with admin_app(mongo_uri, database.name, tmp_path / "var") as app:
        yield app


def asked(app: Flask, mode: GenerationMode) -> Iterator[tuple[str, Any]]:
    schema = schemathesis.openapi.from_wsgi("/api/admin/openapi.json", app)
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.definition.raw["operationId"] != "check_proxy":
            yield operation.label, operation.as_strategy(generation_mode=mode)


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_answers_keep_the_word_of_the_description(app, database, mode):
    admin = Admin(app)
    seed(admin, database)
    # Ids that nobody has lead to a 404 only: every other time it is one that exists.
    known, statuses = cycle((True, False)), set()
    operations = list(asked(app, mode))
    assert len(operations) >= sum(len(path) for path in openapi_document(app)["paths"].values()) - 1
    for label, cases in operations:

        @settings(
            max_examples=EXAMPLES,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(cases)
        def ask(case: Case) -> None:
            if case.path_parameters and next(known):
                case.path_parameters = dict.fromkeys(case.path_parameters, "x")
            answer = case.call(headers=admin.headers)
            statuses.add(answer.status_code)
            case.validate_response(answer, checks=checks_of(case))

        try:
            ask()
        except Unsatisfiable:
            assert mode is GenerationMode.NEGATIVE, label  # it takes nothing that could be wrong
        except BaseException as error:
            error.add_note(f"asked of {label}")
            raise
    assert {200, 400, 404} <= statuses


def test_what_exists_is_shown_as_described(app, database):
    """Everything there is to read of a world in which there is some of everything."""
    admin = Admin(app)
    seed(admin, database)
    schema = schemathesis.openapi.from_wsgi("/api/admin/openapi.json", app)
    read = 0
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.method.lower() == "get":
            names = [parameter.name for parameter in operation.path_parameters]
            case = operation.Case(path_parameters=dict.fromkeys(names, "x") or None)
            answer = case.call(headers=admin.headers)
            case.validate_response(answer, checks=checks_of(case))
            read += answer.status_code == 200
    assert read >= 20
