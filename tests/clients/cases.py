"""What each client is put through: how the upstream plays, who asks, and what has to come of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from urllib.parse import quote

SENTENCE = "The weir counts every drop of water once."
"""What the upstream answers; a client has to show it."""
SECRET_WORD = "grey-heron-7"
"""What is in the file (or the tool of a library) that only a tool call brings to light."""
NOTE = "note.txt"
"""That file, in the directory a client works in."""

_USAGE = "prompt=1200,cached=700,out=9"


class Caller(Enum):
    """Whose key the client has."""

    USER = "a user with credit"
    BROKE = "a user without credit"
    LIMITED = "a user whose requests of this minute are used up"
    UNKNOWN = "nobody: the key is wrong"


class Ask(Enum):
    """What a driver is told to do."""

    PLAIN = "plain"
    STREAMED = "streamed"
    TOOL = "tool"
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True)
class Case:
    """One case. `shows` has to be in what the client prints; `status` is what a refusal is sent with,
    on some endpoints another of `statuses`.
    """

    name: str
    title: str
    ask: Ask
    caller: Caller = Caller.USER
    shows: str = ""
    status: int = 200
    model: str | None = None
    statuses: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_refusal(self) -> bool:
        """Whether Weir refuses the request."""
        return self.status != 200

    def play(self, gate: str, tool: str) -> str:
        """What the upstream plays: options of the simulator. It stops at the gate within a stream."""
        if self.ask is Ask.TOOL:
            return f"call={quote(tool, safe='')},echo,{_USAGE}"
        text = f"text={quote(SENTENCE, safe='')},{_USAGE}"
        if self.ask in (Ask.STREAMED, Ask.CANCEL):
            return f"{text},chunks=8,flush,gate={gate},after=7"
        return text


PLAIN = Case("plain", "plain", Ask.PLAIN, shows=SENTENCE)
STREAMED = Case("streamed", "streamed", Ask.STREAMED, shows=SENTENCE)
TOOL = Case("tool", "tool call", Ask.TOOL, shows=SECRET_WORD)
CANCEL = Case("cancel", "cancelled", Ask.CANCEL)
NO_CREDIT = Case("no-credit", "no credit", Ask.PLAIN, Caller.BROKE, status=402, statuses={"responses": 429})
UNKNOWN_MODEL = Case("unknown-model", "unknown model", Ask.PLAIN, status=404, model="no-such-model-9")
WRONG_KEY = Case("wrong-key", "wrong key", Ask.PLAIN, Caller.UNKNOWN, status=401)
RATE_LIMIT = Case("rate-limit", "rate limit", Ask.PLAIN, Caller.LIMITED, status=429)

CASES = (PLAIN, STREAMED, TOOL, CANCEL, NO_CREDIT, UNKNOWN_MODEL, WRONG_KEY, RATE_LIMIT)
