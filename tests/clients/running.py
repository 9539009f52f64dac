"""One client in one case: a real process in a directory of its own, watched, ended, and judged."""

import itertools
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from simulator.launcher import PATIENCE_S, Child, Overdue, wait_until
from tests.clients.cases import NOTE, SECRET_WORD, SENTENCE, Ask, Caller, Case
from tests.clients.environments import NodeEnvironment, PythonEnvironment
from tests.clients.stage import Account, Sent, Stage, sent

RUN_S = 240.0
"""A client that runs longer hangs, and is ended."""
MOST_REQUESTS = 6
"""So often a client may send what is refused: Codex sends a wrong key six times, most give up at once."""

_STOP_S = 10.0
_gates = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Client:
    """A row of the catalogue: a program, and how it is run and pointed at Weir.

    `command` and `variables` may have `{url}`, `{key}`, `{user}`, `{model}`, `{ask}`, `{home}` and
    `{directory}` in them, `files` (by path below the home) as well; `more` are further arguments. `tool` is
    what the upstream calls in the case of a tool, `shows` what a client prints in a case if that is not what
    the case says.
    It is installed in the last of `places`; the others are what it needs beside.
    A program that shows nothing of a stream before its end has `streams` false. `skips` says which cases it
    has no part in, and why; `most`, how often it may send what is refused.
    """

    name: str
    title: str
    package: str
    version: str
    endpoint: str
    model: str
    command: Sequence[str]
    places: Sequence[PythonEnvironment | NodeEnvironment]
    variables: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    tool: str = "look"
    is_program: bool = False
    streams: bool = True
    stops_itself: bool = False
    more: Mapping[Ask, Sequence[str]] = field(default_factory=dict)
    shows: Mapping[str, str] = field(default_factory=dict)
    skips: Mapping[str, str] = field(default_factory=dict)
    fails_quietly: frozenset[str] = frozenset()
    most: int = MOST_REQUESTS
    in_ci: bool = False


@dataclass(slots=True)
class Result:
    """What came of a case; it passed if there are no `problems`."""

    client: str
    case: str
    problems: list[str] = field(default_factory=list)
    skipped: str = ""
    exit: int | None = None
    seconds: float = 0.0
    requests: list[Sent] = field(default_factory=list)
    unauthenticated: int = 0
    command: str = ""
    output: str = ""

    @property
    def count(self) -> int:
        """How many requests the client sent."""
        return len(self.requests) + self.unauthenticated


def run_case(stage: Stage, client: Client, case: Case, scratch: Path) -> Result:
    """Run it while nobody else has the stage, and compare the books."""
    if case.name in client.skips:
        return Result(client.name, case.name, skipped=client.skips[case.name])
    stage.mark()
    before = stage.unauthenticated()
    gate = f"clients-{next(_gates)}"
    account = stage.account(case.caller)
    result = run_as(stage, client, case, account, scratch, gate)
    stage.settle()
    result.unauthenticated = stage.unauthenticated() - before
    result.problems += judge_requests(stage, client, case, account, result)
    result.problems += stage.troubles()
    return result


def run_as(
    stage: Stage,
    client: Client,
    case: Case,
    account: Account,
    scratch: Path,
    gate: str = "",
    meanwhile: Callable[[], None] = lambda: None,
) -> Result:
    """Run the client with a key, to its end; what it printed is judged, its requests are not yet.

    `gate` is the name of one for this run; without it the upstream plays what it has been told before.
    `meanwhile` is called again and again while it runs.
    """
    home = scratch / f"{client.name}-{case.name}"
    directory = home / "work"
    for made in (directory, home / "tmp"):
        made.mkdir(parents=True)
    (directory / NOTE).write_text(f"{SECRET_WORD}\n")
    values = {
        "url": stage.url,
        "key": account.key,
        "user": account.name or "nobody",
        "model": case.model or client.model,
        "ask": case.ask.value,
        "home": str(home),
        "directory": str(directory),
    }
    for path, text in client.files.items():
        file = home / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(filled(text, values))
    command = [filled(part, values) for part in (*client.command, *client.more.get(case.ask, ()))]
    variables = {name: filled(text, values) for name, text in client.variables.items()}
    if gate:
        stage.upstream.behave("*", case.play(gate, filled(client.tool, values)))
    common = {
        "HOME": str(home),
        "TERM": "dumb",
        "NO_COLOR": "1",
        "LANG": "C.UTF-8",
        "TMPDIR": str(home / "tmp"),
    }
    result = Result(client.name, case.name, command=" ".join(command))
    began = time.monotonic()
    child = Child(command, common | variables, home / "output", cwd=directory)
    try:
        if case.ask in (Ask.STREAMED, Ask.CANCEL):
            result.problems += _through_the_gate(stage, client, case, child, gate)
        wait_until(lambda: meanwhile() or not child.is_running, RUN_S, "its end")
        result.exit = child.wait()
    except Overdue:
        result.problems.append(f"it did not end within {RUN_S:.0f} s")
    finally:
        result.seconds = time.monotonic() - began
        child.kill_tree()
        if gate:
            stage.upstream.open_gate(gate)
    result.output = child.log
    result.problems += _judge_output(client, case, result)
    return result


def _through_the_gate(stage: Stage, client: Client, case: Case, child: Child, gate: str) -> list[str]:
    """While the answer stands still in its middle: has the client shown what was sent? Then on, or stop."""
    try:
        child.wait_for(lambda: _has_arrived(stage, gate), "request upstream", RUN_S)
        if client.streams:
            child.wait_for(lambda: SENTENCE.split()[0] in child.log, "text of a stream", PATIENCE_S)
    except (RuntimeError, Overdue) as trouble:
        stage.upstream.open_gate(gate)
        return [f"while the answer came: {str(trouble).splitlines()[0]}"]
    if case.ask is Ask.STREAMED:
        stage.upstream.open_gate(gate)
    elif not client.stops_itself:
        child.send(signal.SIGINT)
        # Some ask to be told twice; what is still there after the second word is ended.
        for word in (signal.SIGINT, signal.SIGKILL):
            with suppress(Overdue):
                child.wait(_STOP_S)
                break
            child.send(word)
    return []


def _has_arrived(stage: Stage, gate: str) -> bool:
    try:
        stage.upstream.wait_gate(gate, timeout_s=0.05)
    except TimeoutError:
        return False
    return True


def _judge_output(client: Client, case: Case, result: Result) -> list[str]:
    problems = []
    shows = client.shows.get(case.name, case.shows)
    if shows not in " ".join(result.output.split()):
        problems.append(f"it did not show {shows!r}")
    if case.ask is not Ask.CANCEL and case.name != "rate-limit" and result.exit is not None:
        should_fail = case.is_refusal and case.name not in client.fails_quietly
        if (result.exit != 0) is not should_fail:
            problems.append(f"it ended with status {result.exit}")
    return problems


def judge_requests(stage: Stage, client: Client, case: Case, account: Account, result: Result) -> list[str]:
    """Whether the records are those of the case."""
    records = stage.new_records(account)
    result.requests = [sent(record) for record in records]
    asked = [request for request in result.requests if request.endpoint not in ("models", "count_tokens")]
    if case.is_refusal and result.count > client.most:
        return [f"it sent {result.count} requests, which all were refused"]
    if case.caller is Caller.UNKNOWN:
        counted = result.unauthenticated and not records
        return [] if counted else ["no request with the wrong key was counted"]
    if not asked:
        return ["it sent no request"]
    if case.ask is Ask.CANCEL:
        stopped = any(request.outcome == "client_abort" for request in asked)
        return [] if stopped else ["nothing was cancelled"]
    if not case.is_refusal:
        bad = [request for request in asked if request.outcome != "ok"]
        short = case.ask is Ask.TOOL and len(asked) < 2
        return [f"not answered: {bad}"] * bool(bad) + ["no second request with the tool's result"] * short
    status = case.statuses.get(client.endpoint, case.status)
    met = [request for request in asked if request.status == status]
    return [] if met else [f"no request was refused with {status}: {asked}"]


def filled(text: str, values: Mapping[str, str]) -> str:
    """Put values in the place of their names in braces."""
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", value)
    return text
