"""What was found, on the terminal and in docs/clients.md."""

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Sequence

from simulator.launcher import ROOT
from tests.clients.cases import CASES, NO_CREDIT, RATE_LIMIT, TOOL, UNKNOWN_MODEL, WRONG_KEY, Case
from tests.clients.catalogue import CLIENTS
from tests.clients.environments import PLACE
from tests.clients.running import Client, Result, filled
from tests.clients.stage import Sent

_FOUND = PLACE / "results"
"""What was found last of each client and case, a file each."""


def say_what_there_is() -> None:
    """Print the names of clients and cases."""
    for client in CLIENTS:
        ci = ", in CI" if client.in_ci else ""
        print(f"{client.name:<22} {client.title}, {client.package} {client.version}, {client.endpoint}{ci}")
    print("cases:", ", ".join(case.name for case in CASES))


def keep(results: Iterable[Result]) -> None:
    """Keep what was found, for the document, in the place of what was found before."""
    _FOUND.mkdir(parents=True, exist_ok=True)
    for result in results:
        path = _FOUND / f"{result.client}.{result.case}.json"
        path.write_text(json.dumps(dataclasses.asdict(result), indent=1))


def say_result(result: Result) -> None:
    """Print one line of a case, and what the client wrote where it failed."""
    keep([result])
    if result.skipped:
        print(f"  {result.client:<22} {result.case:<14} -    {result.skipped}", flush=True)
        return
    word = "FAIL" if result.problems else "ok"
    print(
        f"  {result.client:<22} {result.case:<14} {word:<4} {result.seconds:6.1f} s  {result.count} requests",
        flush=True,
    )
    for problem in result.problems:
        print(f"      {problem}")
    if result.problems and result.output:
        print("\n".join(f"      | {line[:300]}" for line in result.output.splitlines()[-12:]))


def say_table(clients: Sequence[Client], cases: Sequence[Case], results: Sequence[Result]) -> None:
    """Print a row for each client, a column for each case."""
    found = {(result.client, result.case): result for result in results}
    print()
    print(f"{'client':<22} {'version':<10} " + " ".join(f"{case.title:<13}" for case in cases))
    for client in clients:
        cells = [_cell(found.get((client.name, case.name))) for case in cases]
        print(f"{client.name:<22} {client.version:<10} " + " ".join(f"{cell:<13}" for cell in cells))
    bad = sum(bool(result.problems) for result in results)
    good = sum(not result.problems and not result.skipped for result in results)
    skipped = sum(bool(result.skipped) for result in results)
    print(f"\n{good} passed, {bad} failed, {skipped} skipped")


def _cell(result: Result | None) -> str:
    if result is None:
        return "NOT INSTALLED"
    if result.skipped:
        return "-"
    return f"{'FAIL' if result.problems else 'ok'} {result.count}x {result.seconds:.1f}s"


# -- docs/clients.md --------------------------------------------------------------------------------------

_PAGE = ROOT / "docs" / "clients.md"
_BEGIN, _END = "<!-- by make clients ARGS=--document -->", "<!-- end -->"
_SHOWN = {"url": "https://weir.example.com", "key": "sk-weir-…", "home": "~", "directory": "."}
_LINES = 6
_WIDTH = 160
_NOISE = (
    (re.compile(r"\x1b\[[0-9;]*m"), ""),
    (re.compile(r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b"), "…"),
    (re.compile(r"\b\d{4}-\d\d-\d\dT[\d:.]+Z "), ""),
    (re.compile(r"\bsk-[\w-]{8,}"), _SHOWN["key"]),
    (re.compile(r"http://127\.0\.0\.1:\d+"), _SHOWN["url"]),
    (re.compile(r"/tmp/weir-clients-\w+/[\w-]+/work"), "~/project"),
    (re.compile(r"/tmp/weir-clients-\w+/[\w-]+"), "~"),
    (re.compile(re.escape(f"{PLACE}/") + r"\S*/"), ""),
)


def document() -> None:
    """Write what was found last into the page, between the two marks."""
    found = {(result.client, result.case): result for result in _kept()}
    page = _PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    made = "\n".join([*_table(found), "", *_programs(found)])
    _PAGE.write_text(f"{before}{_BEGIN}\n\n{made}\n{_END}{after}", encoding="utf-8")


def _kept() -> Iterator[Result]:
    for path in sorted(_FOUND.glob("*.json")):
        told = json.loads(path.read_text())
        yield Result(**told | {"requests": [Sent(**request) for request in told["requests"]]})


def _table(found: dict[tuple[str, str], Result]) -> Iterator[str]:
    yield f"| client | package | API | {' | '.join(case.title for case in CASES)} |"
    yield "|---" * (3 + len(CASES)) + "|"
    for client in CLIENTS:
        cells = [_mark(found.get((client.name, case.name)), case) for case in CASES]
        package = f"`{client.package}` {client.version}"
        yield f"| `{client.name}` | {package} | {client.endpoint} | {' | '.join(cells)} |"


def _mark(result: Result | None, case: Case) -> str:
    if result is None:
        return "?"
    if result.skipped:
        return "–"
    if result.problems:
        return "**no**"
    if case is RATE_LIMIT:
        answered = any(request.outcome == "ok" for request in result.requests)
        return f"{result.count}, {'waits' if answered else 'gives up'}"
    return str(result.count) if case.is_refusal else "yes"


def _programs(found: dict[tuple[str, str], Result]) -> Iterator[str]:
    """Yield how each program was run, and what whoever sits before it reads."""
    for client in (client for client in CLIENTS if client.is_program):
        values = _SHOWN | {"model": client.model}
        yield f"### {client.title}"
        yield ""
        yield "```sh"
        yield from (f"export {name}={filled(text, values)}" for name, text in client.variables.items())
        yield _shown_command(client, values)
        yield "```"
        for path, text in client.files.items():
            yield from ("", f"`~/{path}`:", "", "```", filled(text, values).rstrip("\n"), "```")
        for case in (TOOL, NO_CREDIT, UNKNOWN_MODEL, WRONG_KEY):
            result = found.get((client.name, case.name))
            if result is not None and not result.skipped:
                times = "" if case is TOOL else f", {result.count} request{'s' * (result.count > 1)}"
                yield from (
                    "",
                    f"{case.title.capitalize()}{times}:",
                    "",
                    "```",
                    *_screen(result.output),
                    "```",
                )
        yield ""


def _shown_command(client: Client, values: dict[str, str]) -> str:
    program, *rest = (filled(part, values) for part in client.command)
    words = [program.rsplit("/", 1)[-1], *rest]
    return " ".join(f'"{word}"' if " " in word else word for word in words)


def _screen(output: str) -> list[str]:
    for pattern, shown in _NOISE:
        output = pattern.sub(shown, output)
    lines = [line.rstrip() for line in output.splitlines() if line.strip()]
    return [line if len(line) <= _WIDTH else f"{line[:_WIDTH]}…" for line in lines[-_LINES:]]
