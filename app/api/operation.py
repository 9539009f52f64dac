"""What a route takes and answers, declared once: requests are checked against it, and OpenAPI tells it.

    describe = ApiSection("Users")

    @routes.get("/users/<username>")
    @describe("One user", answers=UserView, errors={404: "There is no such user."})
    def user(username: str, query: UserQuery) -> Response: ...

A view's arguments `query` (a `Query` model), `body` (a `Body` model, or `str` for plain text) and
`idempotency_key` (the header of that name, or None) are filled from the request; what does not fit raises
`BadRequest`, which `app.api.answers` answers with 400. Answers are declared (a `TypedDict`, or any type
pydantic has a schema for) and not checked here: the tests do that.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import update_wrapper
from typing import Any, get_args, get_type_hints

from flask import request
from flask.typing import ResponseReturnValue
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import UnsupportedMediaType

from app.statistics.periods import UnknownPeriodError

View = Callable[..., ResponseReturnValue]

ADMIN = "admin"
USER = "user"
OPEN = "open"

JSON = "application/json"
TEXT = "text/plain"

# A larger body is no administration.
MAX_BODY_BYTES = 2 * 1024 * 1024

KEY_HEADER = "Idempotency-Key"

_SHOWN = 80


class Query(BaseModel):
    """Query parameters. Unknown ones are refused: a misspelt filter must not answer with everything."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Body(BaseModel):
    """A JSON body. Unknown fields are refused, a flag is no number, and nothing else is a flag."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _tell_flags_from_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        annotation = cls.model_fields[str(info.field_name)].annotation
        if bool in _types_of(annotation):
            if not isinstance(value, bool | None):
                raise ValueError("takes true or false")
        elif isinstance(value, bool):
            raise ValueError("takes neither true nor false")
        return value


class NoQuery(Query):
    """No parameters."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a request: the parameter or field (empty: the whole body), and what it takes."""

    parameter: str
    message: str

    def __str__(self) -> str:
        return f"{self.parameter}: {self.message}" if self.parameter else self.message


class BadRequest(Exception):
    """A request that does not fit; `extra` are further members of the answer."""

    def __init__(self, problems: Sequence[Problem], extra: Mapping[str, Any] | None = None) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = tuple(problems)
        self.extra = dict(extra or {})

    @classmethod
    def of(cls, parameter: str, message: str) -> "BadRequest":
        """Make the error of a request with one problem."""
        return cls([Problem(parameter, message)])


@dataclass(frozen=True, slots=True)
class Content:
    """An answer that is not one JSON document, such as a streamed export."""

    media_type: str
    description: str


@dataclass(frozen=True, slots=True)
class Operation:
    """What OpenAPI says of a route; `answers` and `errors` are by status."""

    summary: str
    section: str
    access: str
    answers: Mapping[int, Any]
    errors: Mapping[int, str]
    description: str
    query: type[Query]
    body: type[Body] | type[str] | None
    takes_key: bool = False


class DescribedEndpoint:
    """A view with its operation: it is called like the view, with the checked arguments filled in."""

    def __init__(self, view: View, operation: Operation, takes_query: bool) -> None:
        update_wrapper(self, view)
        self.__name__ = view.__name__
        self.operation = operation
        self._view = view
        self._takes_query = takes_query

    def __call__(self, **path: Any) -> ResponseReturnValue:
        """Check the request and call the view. Raises `BadRequest`."""
        arguments: dict[str, Any] = {}
        if self._takes_query:
            arguments["query"] = parse_query(self.operation.query, request.args)
        elif self.operation.access != OPEN:  # probes are asked with whatever a balancer adds
            parse_query(NoQuery, request.args)
        if self.operation.body is not None:
            arguments["body"] = _parse_body(self.operation.body)
        if self.operation.takes_key:
            arguments["idempotency_key"] = request.headers.get(KEY_HEADER)
        return self._view(**path, **arguments)


class ApiSection:
    """The decorator of one section's routes; `access` says who may use them."""

    def __init__(self, name: str, access: str = ADMIN) -> None:
        self.name = name
        self.access = access

    def __call__(
        self,
        summary: str,
        *,
        answers: Any,
        errors: Mapping[int, str] | None = None,
    ) -> Callable[[View], DescribedEndpoint]:
        """Declare a view: `answers` is a type (of the 200), or types and `Content`s by status."""

        def declare(view: View) -> DescribedEndpoint:
            hints = get_type_hints(view)
            operation = Operation(
                summary=summary,
                section=self.name,
                access=self.access,
                answers=answers if isinstance(answers, Mapping) else {200: answers},
                errors=errors or {},
                description=" ".join((view.__doc__ or "").split()),
                query=hints.get("query", NoQuery),
                body=hints.get("body"),
                takes_key="idempotency_key" in hints,
            )
            return DescribedEndpoint(view, operation, "query" in hints)

        return declare


def parse_query(model: type[Query], given: MultiDict[str, str]) -> Query:
    """Check the parameters of a query string; an empty one counts as left out. Raises `BadRequest`."""
    values: dict[str, str] = {}
    twice = []
    for name, texts in given.lists():
        if len(texts) > 1:
            twice.append(Problem(name[:_SHOWN], "is given more than once"))
        elif texts[0]:
            values[name] = texts[0]
    if twice:
        raise BadRequest(twice)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _bad_request(error, names_of(model), shows_input=True) from None


def parse_json(model: type[Body], raw: bytes) -> Body:
    """Read a JSON body. Raises `BadRequest`, which never repeats a value: it may be a secret."""
    if name := _repeated_name(raw):
        raise BadRequest.of(name[:_SHOWN], "is given more than once")
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        raise _bad_request(error, names_of(model), shows_input=False) from None


def names_of(model: type[BaseModel]) -> list[str]:
    """Return the names a request uses for the model's fields."""
    return [field.alias or name for name, field in model.model_fields.items()]


def _types_of(annotation: Any) -> Iterator[Any]:
    yield annotation
    for argument in get_args(annotation):
        yield from _types_of(argument)


def _repeated_name(raw: bytes) -> str | None:
    """Return a name that an object of a JSON text has twice; None for what is no JSON, too.

    Readers of JSON do not agree on which of two counts.
    """
    found: list[str] = []

    def note(members: list[tuple[str, Any]]) -> None:
        names = Counter(name for name, _ in members)
        found.extend(name for name, count in names.items() if count > 1)

    with suppress(ValueError, RecursionError):
        json.loads(raw, object_pairs_hook=note)
    return found[0] if found else None


def _parse_body(body: type[Body] | type[str]) -> Body | str:
    request.max_content_length = MAX_BODY_BYTES
    media_type = TEXT if body is str else JSON
    if request.mimetype != media_type:
        raise UnsupportedMediaType(f"send the body as {media_type}, and say so in Content-Type")
    raw = request.get_data(cache=False)
    if issubclass(body, Body):
        return parse_json(body, raw)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequest.of("", "the body is not UTF-8 text") from None


def _bad_request(error: ValidationError, names: Sequence[str], *, shows_input: bool) -> BadRequest:
    found = error.errors(include_url=False)
    extra: dict[str, Any] = {}
    for details in found:
        cause = details.get("ctx", {}).get("error")
        if isinstance(cause, UnknownPeriodError):
            extra["valid_periods"] = list(cause.valid_periods)
    return BadRequest([_problem(details, names, shows_input) for details in found], extra)


def _problem(details: ErrorDetails, names: Sequence[str], shows_input: bool) -> Problem:
    parameter = ".".join(str(part) for part in details["loc"])[:_SHOWN]
    kind = details["type"]
    if kind == "extra_forbidden":
        takes = f"this takes {', '.join(names)}" if names else "this takes none"
        return Problem(parameter, f"is not known; {takes}")
    if kind == "missing":
        return Problem(parameter, "is required")
    if kind == "json_invalid":
        return Problem("", "the body is not JSON")
    if not parameter:
        return Problem("", "the body takes a JSON object")
    message = details["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    message = message.removeprefix(f"{parameter}: ")
    message = message[:1].lower() + message[1:]
    shown = f" (got {str(details['input'])[:_SHOWN]!r})" if shows_input and kind != "value_error" else ""
    return Problem(parameter, message + shown)
