"""A replica set of three under load: step-downs, killed and paused primaries, rollbacks, no majority."""

import itertools
import time
from collections import Counter
from collections.abc import Callable

import gevent

from drill.load import Call
from drill.mix import CHAT, Caller, Request, make_request
from drill.prices import DEAR_MODEL
from drill.replica_set import ReplicaSet
from drill.report import Findings
from drill.stage import Drill, Stage
from drill.wire import Ending
from simulator.launcher import PATIENCE_S, Overdue, wait_until

# No answer may take longer: the upstream takes a tenth of a second, Weir waits two seconds for MongoDB, and
# the rest is for the machine.
_MOST_S = 4.0

_THRIFTY_USD = "9"
# A thousandth of a dollar each: a request needs a hold, since it may cost 0.10 USD, and costs 0.008.
_MAX_TOKENS, _OUTPUT = 100, 8

_EVERY_S = 0.8
_UNNOTICED_S = 1.0
_NO_MAJORITY_S = 8.0
_WARM_UP = 8
_MOST_LINES = 20


def replica_set(drill: Drill) -> Findings:
    """Change primaries under load.

    No record is lost or doubled, nobody with credit is refused, nobody waits, no hold is left.
    """
    findings = Findings("replica-set")
    with (
        ReplicaSet(drill.directory / "replica-set-store", election_s=drill.level.election_s) as servers,
        drill.stage("replica-set", replica_set=servers, LOG_LEVEL="warning") as stage,
    ):
        thrifty = [stage.add_user(f"thrifty-{number}", _THRIFTY_USD) for number in range(3)]
        stage.callers += thrifty
        wait_until(lambda: _is_warm(stage), PATIENCE_S, "each worker to serve each user")
        warm = len(stage.load)
        with stage.load.steadily(drill.level.rate / 2, _mixed(stage, thrifty)):
            for number in range(1, drill.level.elections + 1):
                for disturb in _DISTURBANCES:
                    disturb(servers)
                    servers.primary()
                    gevent.sleep(drill.random.uniform(1.0, 3.0))
                    stage.upstream.collect()
                stage.console.say(f"replica-set: round {number}, {len(stage.load)} requests")
        _judge_answers(findings, stage.load.calls[warm:])
        _wait_for_holds(findings, stage)
        stage.close_books(findings)
        lines = len(stage.weir.log.splitlines())
        findings.figures["lines logged"] = lines
        most = _MOST_LINES * len(_DISTURBANCES) * drill.level.elections
        findings.expect(lines <= most, f"{lines} lines were logged: a reason is to be said once")
        findings.figures["rolled back, files"] = sum(member.rolled_back() for member in servers.members)
        findings.expect(findings.figures["rolled back, files"], "nothing was rolled back: it was not tried")
    return findings


def _is_warm(stage: Stage) -> bool:
    """Send some requests of each user; return whether each worker knows them all by now."""
    for caller in stage.callers * _WARM_UP:
        stage.load.send(_dear(caller))
    return stage.is_known_everywhere()


def _mixed(stage: Stage, thrifty: list[Caller]) -> Callable[[], Request]:
    """Make steady requests, and now and then a dear one of a user whose balance is never ample."""
    due, turn = time.monotonic(), itertools.cycle(thrifty)

    def make() -> Request:
        nonlocal due
        if time.monotonic() < due:
            return stage.mix.steady()
        due += _EVERY_S
        return _dear(next(turn))

    return make


def _dear(caller: Caller) -> Request:
    play = f"prompt=20,out={_OUTPUT},chunks=4,delay_ms=20"
    return make_request(caller, CHAT, play, is_stream=True, model=DEAR_MODEL, max_tokens=_MAX_TOKENS)


def _step_down(servers: ReplicaSet) -> None:
    servers.step_down()
    gevent.sleep(_UNNOTICED_S)


def _kill(servers: ReplicaSet) -> None:
    primary = servers.primary()
    primary.kill()
    servers.primary(servers.others(primary))
    servers.revive(primary)


def _pause(servers: ReplicaSet) -> None:
    """Pause the old primary; it wakes up, does what it was asked long ago, and hears of another one."""
    primary = servers.primary()
    primary.pause()
    servers.primary(servers.others(primary))
    gevent.sleep(_UNNOTICED_S)
    primary.resume()


def _roll_back(servers: ReplicaSet) -> None:
    servers.roll_back(lambda: gevent.sleep(_UNNOTICED_S))


def _lose_majority(servers: ReplicaSet) -> None:
    primary = servers.primary()
    for other in servers.others(primary):
        other.pause()
    gevent.sleep(_NO_MAJORITY_S)
    for other in servers.others(primary):
        other.resume()


_DISTURBANCES = (_step_down, _kill, _pause, _roll_back, _lose_majority)


def _judge_answers(findings: Findings, calls: list[Call]) -> None:
    """Check that nobody noticed: every caller has credit, and was known before the first election."""
    hurt = Counter(
        f"{call.caller.name}: {call.ending.value} {call.status}"
        for call in calls
        if call.ending is not Ending.WHOLE or call.status != 200
    )
    findings.expect(not hurt, f"answers suffered: {dict(hurt)}")
    slow = [round(call.ms / 1000, 1) for call in calls if call.ms > _MOST_S * 1000]
    findings.figures["answers over 1 s"] = sum(call.ms > 1000 for call in calls)
    findings.expect(not slow, f"{len(slow)} answers took longer than {_MOST_S} s: {sorted(slow)[-5:]}")


def _wait_for_holds(findings: Findings, stage: Stage) -> None:
    """Wait until what came through late was removed by its owner, within seconds."""
    stage.wait_settled()
    users = stage.database["usersNew"]
    try:
        took = wait_until(
            lambda: not users.count_documents({"holds": {"$exists": True}}), PATIENCE_S, "holds to end"
        )
        findings.figures["holds ended after, s"] = round(took, 1)
    except Overdue as error:
        findings.problem(str(error))
