"""`python -m tests.clients [NAME…]`: install real clients, run them against Weir, compare the books."""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.clients import report
from tests.clients.cases import CANCEL, CASES, NO_CREDIT, RATE_LIMIT, STREAMED, TOOL, Case
from tests.clients.catalogue import CLIENTS, chosen
from tests.clients.running import (
    Client,
    Result,
    judge_requests,
    run_as,
    run_case,
)
from tests.clients.stage import Stage, stage
from tools.environment import SetUpError

_AT_ONCE = 4
_IN_CI = (STREAMED, TOOL, CANCEL, NO_CREDIT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line names; 0 if all of it went well."""
    parser = argparse.ArgumentParser(prog="make clients", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="a client, or the beginning of several names"
    )
    parser.add_argument("--ci", action="store_true", help="only those that are quick to install and to run")
    parser.add_argument("--case", action="append", metavar="CASE", help="only this case (may be repeated)")
    parser.add_argument("--list", action="store_true", help="say which clients and cases there are, and end")
    parser.add_argument("--document", action="store_true", help="write what was found into docs/clients.md")
    given = parser.parse_args(arguments)
    if given.list:
        report.say_what_there_is()
        return 0
    try:
        clients = chosen(given.names) if given.names else list(CLIENTS)
    except KeyError as unknown:
        parser.error(f"there is no client {unknown}; --list says which there are")
    cases = [case for case in CASES if not given.case or case.name in given.case]
    if given.ci:
        clients = [client for client in clients if client.in_ci]
        cases = [case for case in cases if case in _IN_CI]
    results = _run(clients, cases)
    report.say_table(clients, cases, results)
    if given.document:
        report.document()
    return 1 if any(result.problems for result in results) else 0


def _run(clients: Sequence[Client], cases: Sequence[Case]) -> list[Result]:
    results, ready = [], []
    for client in clients:
        try:
            for place in client.places:
                place.make()
            ready.append(client)
        except SetUpError as problem:
            result = Result(client.name, "install", [f"it cannot be installed: {problem}"])
            report.say_result(result)
            results.append(result)
    with tempfile.TemporaryDirectory(prefix="weir-clients-") as scratch, stage(Path(scratch)) as there:
        for client in ready:
            for case in cases:
                if case is not RATE_LIMIT:
                    result = run_case(there, client, case, Path(scratch))
                    report.say_result(result)
                    results.append(result)
        if RATE_LIMIT in cases:
            results += _meet_the_limit(there, ready, Path(scratch))
    return results


def _meet_the_limit(there: Stage, clients: Sequence[Client], scratch: Path) -> list[Result]:
    """All clients, several at once, since most of the time they wait."""
    there.mark()
    there.upstream.behave("*", RATE_LIMIT.play("", ""))

    def meet(client: Client) -> Result:
        if RATE_LIMIT.name in client.skips:
            return Result(client.name, RATE_LIMIT.name, skipped=client.skips[RATE_LIMIT.name])
        account = there.account(RATE_LIMIT.caller)
        used_up = 0

        def use_up() -> None:
            """Leave it no request of this minute, whenever it starts; of the minute after its first, all."""
            nonlocal used_up
            minute = int(time.time()) // 60
            if minute != used_up and not there.is_refused(account):
                there.use_up(account)
            used_up = minute

        result = run_as(there, client, RATE_LIMIT, account, scratch, meanwhile=use_up)
        there.settle()
        result.problems += judge_requests(there, client, RATE_LIMIT, account, result)
        report.say_result(result)
        return result

    with ThreadPoolExecutor(_AT_ONCE) as several:
        results = list(several.map(meet, clients))
    results[-1].problems += there.troubles()
    return results


if __name__ == "__main__":
    sys.exit(main())
