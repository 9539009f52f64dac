"""The endpoints that clients call: one table, and whatever differs between them is a column of it.

An endpoint more is a row here, and a way to read it where none is there yet: its body in `request_body` and
`orders`, its events and answers in `formats` and `meter`, its limit on output in `output_limit`. A path that
takes several methods has a row for each. What is under the API's path and in no row is refused, and recorded
as `UNKNOWN`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import Final

from app.wires.wire_format import WireFormat

API: Final = "/v1"
"""All endpoints are under it, and so is what clients call by mistake."""

_PARAMETER = re.compile(r"<(?:\w+:)?(\w+)>")


class Body(Enum):
    """What is read of a request's body."""

    NONE = "none"
    """Nothing: none is sent upstream either, whatever the client sends."""
    JSON = "json"
    STATE = "state"
    """JSON that names no model, or nothing."""
    BATCH = "batch"
    """JSON with many requests in it."""
    FORM = "form"
    """`multipart/form-data`, with files in it; or JSON, where the client calls it that."""


class Metering(Enum):
    """What the upstream charges for, and so what is counted, estimated where it is not told, and held."""

    NOTHING = "nothing"
    TOKENS = "tokens"
    INPUT = "input"
    """Tokens of input alone."""
    SEARCHES = "searches"
    """Searches of up to 100 documents, or tokens."""
    IMAGES = "images"
    """Images, by their tokens or by the piece."""
    SPEECH = "speech"
    """Text that is spoken: its characters, or tokens of both sides."""
    RECORDINGS = "recordings"
    """Audio that is listened to: its seconds, or tokens of both sides."""


class Retry(Enum):
    """After which failures a request may go to a further upstream key. Never once an answer has begun."""

    FREELY = "freely"
    UNBEGUN = "unbegun"
    """Where the upstream was not reached or has refused it: else it might do, and charge for, it twice."""
    NEVER = "never"
    """What it asks for belongs to one key."""

    def allows(self, *, may_be_running: bool) -> bool:
        """Say whether the next key may be tried; `may_be_running`: the upstream may have begun with it."""
        return self is Retry.FREELY or (self is Retry.UNBEGUN and not may_be_running)


class Answers(Enum):
    """Whose events and bodies come back, and so how they are read (`app.wires.formats`)."""

    CHAT = "chat"
    MESSAGES = "messages"
    RESPONSES = "responses"
    DOCUMENT = "document"
    """What the upstream keeps, or keeps no more: nothing was generated."""
    BATCH = "batch"
    """The same of a batch, which tells where its results are."""
    RESULTS = "results"
    """A line for each request of a batch."""
    LIST = "list"
    """A JSON object with a list of results: embeddings, moderations, ranks."""
    IMAGES = "images"
    SPEECH = "speech"
    TRANSCRIPT = "transcript"

    @property
    def is_by_type(self) -> bool:
        """Whether the type that an answer bears tells what it is: its bytes may be anything."""
        return self in (Answers.SPEECH, Answers.TRANSCRIPT)


@dataclass(frozen=True, slots=True, eq=False)
class Members:
    """Which members of a JSON body say what, where endpoints differ.

    `prompt` hold the input. `required`, if there is one, is the member that has to be there, and a list.
    `elsewhere` name input that is not in the body, beside the members that do so everywhere
    (`app.wires.orders`). `output_limits` limit the output: of several the largest counts, since any may be
    the one that is read. Where a request has none, the first is added for models that know no older one, the
    last for all others. `choices` is the member that orders several answers at once. `default_model` is asked
    for by a body that names none.
    """

    prompt: tuple[str, ...]
    required: str | None = None
    elsewhere: tuple[str, ...] = ()
    output_limits: tuple[str, ...] = ()
    choices: str | None = None
    default_model: str | None = None


_CHAT_MEMBERS = Members(
    ("messages",),
    required="messages",
    output_limits=("max_completion_tokens", "max_tokens"),
    choices="n",
)
_MESSAGES_MEMBERS = Members(
    ("messages", "system"), required="messages", output_limits=("max_tokens",), choices="n"
)
_RESPONSES_MEMBERS = Members(
    ("input", "instructions"), elsewhere=("prompt",), output_limits=("max_output_tokens",)
)
_COMPLETION_MEMBERS = Members(("prompt", "suffix"), output_limits=("max_tokens",), choices="n")
_IMAGE_MEMBERS = Members(("prompt",), choices="n")
_INPUT_MEMBERS = Members(("input",))


_NAMING = ("previous_response_id", "conversation", "input", "tools")
_ITEMS = ("items",)


@dataclass(frozen=True, slots=True, eq=False)
class Endpoint:
    """A row: a method and a path, and what is the same of all requests to it.

    `name` is how records, statistics and exports call it; several rows may share one, and `route` then tells
    them apart. `path` is written as Flask's rules are (`<id>`: anything without a slash, `<path:id>`:
    anything); upstream it is the same. `is_either_format`: a client may speak the other format there too,
    which a header of theirs says. What does not go upstream is answered by the proxy itself. `may_stream` and
    `takes_usage_option` say that a body's `stream`, and OpenAI's `stream_options.include_usage`, mean
    something there. `members` says how its body is read, `answers` how what comes back is. `makes` says that
    the upstream keeps what it answers, under an id; `names_objects` are the members of a body that may name
    what it keeps.
    `has_conversations`: a request may go on with what earlier ones began, and vendors cache. `headers` are
    those of its clients that go upstream beside the usual ones. `final_status` is the status of refusals that
    no retry can help and that are no fault of the request's own, where its clients go by the status alone.
    `takes_tokens`: its input may be tokens, as numbers.
    """

    name: str
    method: str
    path: str
    summary: str = ""
    wire_format: WireFormat = WireFormat.OPENAI
    is_either_format: bool = False
    goes_upstream: bool = True
    body: Body = Body.JSON
    members: Members = _CHAT_MEMBERS
    answers: Answers = Answers.CHAT
    metering: Metering = Metering.TOKENS
    retry: Retry = Retry.FREELY
    may_stream: bool = False
    takes_usage_option: bool = False
    has_conversations: bool = False
    headers: tuple[str, ...] = ()
    final_status: int | None = None
    makes: bool = False
    names_objects: tuple[str, ...] = ()
    takes_tokens: bool = False
    route: str | None = None

    @property
    def asks_model(self) -> bool:
        """Whether something is asked of a model: then the body has to say of which."""
        return self.body not in (Body.NONE, Body.STATE)

    @property
    def is_billed(self) -> bool:
        """Whether the upstream charges for it."""
        return self.metering is not Metering.NOTHING

    @property
    def shown_path(self) -> str:
        """The path as people write it: `/v1/models/{id}`."""
        return _PARAMETER.sub(r"{\1}", self.path)

    @property
    def fixed_path(self) -> str:
        """The path up to its first parameter, without a slash at its end."""
        return _PARAMETER.split(self.path, maxsplit=1)[0].rstrip("/")

    @property
    def has_parameters(self) -> bool:
        """Whether a part of the path differs from request to request."""
        return _PARAMETER.search(self.path) is not None

    def filled_path(self, parameters: Mapping[str, str]) -> str:
        """Return the path with these parameters in it, which have been checked (`is_object_id`)."""
        return _PARAMETER.sub(lambda found: parameters[found[1]], self.path) if parameters else self.path


CHAT = Endpoint(
    "chat",
    "POST",
    "/v1/chat/completions",
    "A chat completion in OpenAI's format, streamed or not",
    may_stream=True,
    takes_usage_option=True,
    has_conversations=True,
)
MESSAGES = Endpoint(
    "messages",
    "POST",
    "/v1/messages",
    "A message in Anthropic's format, streamed or not",
    WireFormat.ANTHROPIC,
    members=_MESSAGES_MEMBERS,
    answers=Answers.MESSAGES,
    may_stream=True,
    has_conversations=True,
    names_objects=("container",),
)
COUNT_TOKENS = Endpoint(
    "count_tokens",
    "POST",
    "/v1/messages/count_tokens",
    "How many input tokens a message has",
    WireFormat.ANTHROPIC,
    members=_MESSAGES_MEMBERS,
    answers=Answers.MESSAGES,
    metering=Metering.NOTHING,
)
# Codex sends a prompt thirty times after 5xx, whatever `x-should-retry` says, six times after 401 to 404, and
# once after a 429 without `Retry-After` (seen with 0.171).
_FINAL_STATUS = 429
# What Codex tells of itself and of the conversation, and repeats of what an answer before told it.
_CODEX = (
    *("originator", "session-id", "thread-id", "x-client-request-id"),
    *("x-codex-window-id", "x-codex-turn-metadata", "x-codex-beta-features", "x-codex-turn-state"),
)

RESPONSES = Endpoint(
    "responses",
    "POST",
    "/v1/responses",
    "A response in the format of OpenAI's Responses API, streamed or not",
    members=_RESPONSES_MEMBERS,
    answers=Answers.RESPONSES,
    may_stream=True,
    has_conversations=True,
    headers=_CODEX,
    final_status=_FINAL_STATUS,
    makes=True,
    names_objects=_NAMING,
    route="create_response",
)
COUNT_RESPONSE_TOKENS = Endpoint(
    "responses",
    "POST",
    "/v1/responses/input_tokens",
    "How many input tokens a response would have",
    members=_RESPONSES_MEMBERS,
    answers=Answers.RESPONSES,
    metering=Metering.NOTHING,
    headers=_CODEX,
    final_status=_FINAL_STATUS,
    names_objects=_NAMING,
    route="count_response_tokens",
)
COMPACT_RESPONSE = Endpoint(
    "responses",
    "POST",
    "/v1/responses/compact",
    "A conversation made shorter",
    members=_RESPONSES_MEMBERS,
    answers=Answers.RESPONSES,
    retry=Retry.UNBEGUN,
    headers=_CODEX,
    final_status=_FINAL_STATUS,
    names_objects=_NAMING,
    route="compact_response",
)
GET_RESPONSE = Endpoint(
    "responses",
    "GET",
    "/v1/responses/<id>",
    "A response, as far as it has come; with `stream=true` its events",
    body=Body.NONE,
    answers=Answers.RESPONSES,
    metering=Metering.NOTHING,
    may_stream=True,
    route="get_response",
)
CANCEL_RESPONSE = Endpoint(
    "responses",
    "POST",
    "/v1/responses/<id>/cancel",
    "Have a response in the background end",
    body=Body.NONE,
    answers=Answers.RESPONSES,
    metering=Metering.NOTHING,
    route="cancel_response",
)


def _document(
    method: str,
    path: str,
    summary: str,
    route: str,
    body: Body = Body.NONE,
    *,
    makes: bool = False,
    names_objects: tuple[str, ...] = (),
) -> Endpoint:
    """Make the row of a document that the upstream keeps: free, and with nothing in it to be counted."""
    return Endpoint(
        *("responses", method, path, summary),
        body=body,
        answers=Answers.DOCUMENT,
        metering=Metering.NOTHING,
        makes=makes,
        names_objects=names_objects,
        route=route,
    )


DELETE_RESPONSE = _document("DELETE", "/v1/responses/<id>", "Have a response deleted", "delete_response")
LIST_INPUT_ITEMS = _document(
    "GET", "/v1/responses/<id>/input_items", "The input of a response", "list_input_items"
)
_CONVERSATION = "/v1/conversations/<id>"
CREATE_CONVERSATION = _document(
    *("POST", "/v1/conversations", "A conversation that responses go on in", "create_conversation"),
    body=Body.STATE,
    makes=True,
    names_objects=_ITEMS,
)
CONVERSATIONS: Final = (
    CREATE_CONVERSATION,
    _document("GET", _CONVERSATION, "A conversation", "get_conversation"),
    _document("POST", _CONVERSATION, "Change what is noted of it", "update_conversation", Body.STATE),
    _document("DELETE", _CONVERSATION, "Have a conversation deleted", "delete_conversation"),
    _document("GET", f"{_CONVERSATION}/items", "What was said in it", "list_conversation_items"),
    _document(
        *("POST", f"{_CONVERSATION}/items", "Add to it", "create_conversation_items", Body.STATE),
        names_objects=_ITEMS,
    ),
    _document("GET", f"{_CONVERSATION}/items/<item_id>", "One thing said in it", "get_conversation_item"),
    _document("DELETE", f"{_CONVERSATION}/items/<item_id>", "Take one out", "delete_conversation_item"),
)
_batch = partial(
    Endpoint,
    "batches",
    wire_format=WireFormat.ANTHROPIC,
    body=Body.NONE,
    answers=Answers.BATCH,
    metering=Metering.NOTHING,
)
_BATCH = "/v1/messages/batches/<id>"
CREATE_BATCH = Endpoint(
    "batches",
    "POST",
    "/v1/messages/batches",
    "Many messages at half the price, within a day",
    WireFormat.ANTHROPIC,
    body=Body.BATCH,
    answers=Answers.BATCH,
    retry=Retry.UNBEGUN,
    makes=True,
    names_objects=MESSAGES.names_objects,
    route="create_batch",
)
GET_BATCH = _batch(method="GET", path=_BATCH, summary="How far a batch is", route="get_batch")
BATCH_RESULTS = _batch(
    method="GET",
    path=f"{_BATCH}/results",
    summary="What came of each message; charged when it is first seen",
    route="batch_results",
    answers=Answers.RESULTS,
)
BATCHES: Final = (
    *(CREATE_BATCH, GET_BATCH, BATCH_RESULTS),
    _batch(method="POST", path=f"{_BATCH}/cancel", summary="Have a batch end", route="cancel_batch"),
    _batch(method="DELETE", path=_BATCH, summary="Have a batch that ended deleted", route="delete_batch"),
)
COMPLETIONS = Endpoint(
    "completions",
    "POST",
    "/v1/completions",
    "A completion in OpenAI's old format, streamed or not",
    members=_COMPLETION_MEMBERS,
    may_stream=True,
    takes_usage_option=True,
    takes_tokens=True,
)
EMBEDDINGS = Endpoint(
    "embeddings",
    "POST",
    "/v1/embeddings",
    "Embeddings of texts",
    members=_INPUT_MEMBERS,
    answers=Answers.LIST,
    metering=Metering.INPUT,
    takes_tokens=True,
)
MODERATIONS = Endpoint(
    "moderations",
    "POST",
    "/v1/moderations",
    "Whether texts or images are harmful",
    members=Members(("input",), default_model="omni-moderation-latest"),
    answers=Answers.LIST,
    metering=Metering.NOTHING,
)
RERANK = Endpoint(
    "rerank",
    "POST",
    "/v1/rerank",
    "Documents in the order of their relevance",
    members=Members(("query", "documents")),
    answers=Answers.LIST,
    metering=Metering.SEARCHES,
)
RERANK_V2 = replace(
    RERANK, path="/v2/rerank", summary="The same, in Cohere's second version", route="rerank_v2"
)
GENERATE_IMAGES = Endpoint(
    "images",
    "POST",
    "/v1/images/generations",
    "Images made of a text, streamed or not",
    members=_IMAGE_MEMBERS,
    answers=Answers.IMAGES,
    metering=Metering.IMAGES,
    retry=Retry.UNBEGUN,
    may_stream=True,
    route="generate_images",
)
EDIT_IMAGES = replace(
    GENERATE_IMAGES,
    path="/v1/images/edits",
    summary="Images made of images and a text",
    body=Body.FORM,
    route="edit_images",
)
VARY_IMAGES = replace(
    EDIT_IMAGES,
    path="/v1/images/variations",
    summary="Variations of an image",
    may_stream=False,
    route="vary_images",
)
SPEECH = Endpoint(
    "speech",
    "POST",
    "/v1/audio/speech",
    "A text that is spoken, as audio or streamed as events",
    members=Members(("input", "instructions")),
    answers=Answers.SPEECH,
    metering=Metering.SPEECH,
)
TRANSCRIPTIONS = Endpoint(
    "transcriptions",
    "POST",
    "/v1/audio/transcriptions",
    "What a recording says, as JSON, text or subtitles, or streamed as events",
    body=Body.FORM,
    members=Members(("prompt",)),
    answers=Answers.TRANSCRIPT,
    metering=Metering.RECORDINGS,
    may_stream=True,
)
TRANSLATIONS = Endpoint(
    "translations",
    "POST",
    "/v1/audio/translations",
    "What a recording says, in English",
    body=Body.FORM,
    members=Members(("prompt",)),
    answers=Answers.TRANSCRIPT,
    metering=Metering.RECORDINGS,
)
LIST_MODELS = Endpoint(
    "models",
    "GET",
    "/v1/models",
    "The models, in OpenAI's or Anthropic's shape",
    is_either_format=True,
    goes_upstream=False,
    body=Body.NONE,
    metering=Metering.NOTHING,
    route="list_models",
)
GET_MODEL = Endpoint(
    "models",
    "GET",
    "/v1/models/<path:id>",
    "One model",
    is_either_format=True,
    goes_upstream=False,
    body=Body.NONE,
    metering=Metering.NOTHING,
    route="get_model",
)

USAGE = Endpoint(
    "usage",
    "GET",
    "/v1/usage",
    "What the key that asks has used, and what is left",
    goes_upstream=False,
    body=Body.NONE,
    metering=Metering.NOTHING,
    route="own_usage",
)
BILLING_SUBSCRIPTION = Endpoint(
    "usage",
    "GET",
    "/v1/dashboard/billing/subscription",
    "The credit, as OpenAI used to tell it",
    goes_upstream=False,
    body=Body.NONE,
    metering=Metering.NOTHING,
    route="billing_subscription",
)
BILLING_USAGE = Endpoint(
    "usage",
    "GET",
    "/v1/dashboard/billing/usage",
    "What the key that asks has used, as OpenAI used to tell it",
    goes_upstream=False,
    body=Body.NONE,
    metering=Metering.NOTHING,
    route="billing_usage",
)

ENDPOINTS: Final = (
    *(CHAT, MESSAGES, COUNT_TOKENS),
    *(RESPONSES, COUNT_RESPONSE_TOKENS, COMPACT_RESPONSE),
    *(GET_RESPONSE, CANCEL_RESPONSE, DELETE_RESPONSE, LIST_INPUT_ITEMS),
    *CONVERSATIONS,
    *BATCHES,
    *(COMPLETIONS, EMBEDDINGS, MODERATIONS, RERANK, RERANK_V2),
    *(GENERATE_IMAGES, EDIT_IMAGES, VARY_IMAGES, SPEECH, TRANSCRIPTIONS, TRANSLATIONS),
    *(LIST_MODELS, GET_MODEL),
    *(USAGE, BILLING_SUBSCRIPTION, BILLING_USAGE),
)
FORWARDED: Final = tuple(endpoint for endpoint in ENDPOINTS if endpoint.goes_upstream)

UNKNOWN: Final = Endpoint(
    "unknown",
    "",
    API,
    is_either_format=True,
    goes_upstream=False,
    body=Body.NONE,
    metering=Metering.NOTHING,
)
"""What a request to no endpoint is recorded as."""

_BESIDE_API = frozenset(endpoint.path for endpoint in ENDPOINTS if not endpoint.path.startswith(f"{API}/"))
_ANTHROPIC_PATHS = tuple(
    endpoint.path for endpoint in ENDPOINTS if endpoint.wire_format is WireFormat.ANTHROPIC
)


_WITH_PARAMETERS: Final = tuple(
    (endpoint, re.compile(_PARAMETER.sub(r"(?P<\1>[^/]+)", endpoint.path)))
    for endpoint in FORWARDED
    if endpoint.has_parameters
)

_OBJECT_ID = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._~:=+-]{0,255}")


def forwarded_with_parameters(method: str, path: str) -> tuple[Endpoint, dict[str, str]] | None:
    """Return the endpoint that goes upstream at a path with parameters, and these; None: there is none."""
    if not path.startswith(f"{API}/"):
        return None
    for endpoint, pattern in _WITH_PARAMETERS:
        if endpoint.method == method and (found := pattern.fullmatch(path)) is not None:
            return endpoint, found.groupdict()
    return None


def is_object_id(text: str) -> bool:
    """Whether a text can be the id of something an upstream keeps: no way out of its place in a path."""
    return _OBJECT_ID.fullmatch(text) is not None


def format_of_path(path: str) -> WireFormat:
    """Return the format of a path under which only one of them is spoken; OpenAI's where both are."""
    return WireFormat.ANTHROPIC if path.startswith(_ANTHROPIC_PATHS) else WireFormat.OPENAI


def format_of_call(path: str, headers: Mapping[str, str]) -> WireFormat:
    """Return whose shapes an answer has where both SDKs may call; only Anthropic's sends a version header."""
    return WireFormat.ANTHROPIC if "anthropic-version" in headers else format_of_path(path)


def is_of_api(path: str) -> bool:
    """Whether a path is the client API's, whatever is there."""
    return path == API or path.startswith(f"{API}/") or path in _BESIDE_API


def is_spoken(headers: Mapping[str, str]) -> bool:
    """Whether a request looks like one of the API's clients: it sends a key as they do, or says so."""
    bearer = headers.get("authorization", "")[:7].lower() == "bearer "
    return bearer or any(name in headers for name in ("x-api-key", "anthropic-version", "x-stainless-lang"))
