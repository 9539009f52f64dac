"""What an operator does to a running product: reload, scale, recycle, stop. Nobody may notice."""

import signal
from functools import partial

import gevent

from drill.mix import CHAT, MESSAGES, Request, make_request
from drill.report import Findings
from drill.stage import Drill, Stage
from drill.wire import Ending
from simulator.launcher import PATIENCE_S, wait_until

_CLIENTS = 8
_WORKERS = 2
_LONG = "chunks=40,delay_ms=60,prompt=300,out=200"


def signals(drill: Drill) -> Findings:
    """Send SIGHUP, TTIN, TTOU, recycle workers and at last SIGTERM, under load: every answer is whole."""
    findings = Findings("signals")
    sequence = [signal.SIGHUP, signal.SIGTTIN, signal.SIGHUP, signal.SIGTTOU]
    with drill.stage("signals", GUNICORN_CMD_ARGS="--max-requests 80 --max-requests-jitter 40") as stage:
        with stage.load.clients(_CLIENTS, stage.mix.next):
            for number in sequence:
                long = [gevent.spawn(stage.load.send, _long_stream(stage, drill)) for _ in range(3)]
                gevent.sleep(0.3)
                stage.weir.send(number)
                stage.console.say(f"signals: {number.name} at {len(stage.load)} requests")
                gevent.sleep(drill.level.disturbed_s / 2)
                gevent.joinall(long, raise_error=True)
        long = [gevent.spawn(stage.load.send, _long_stream(stage, drill)) for _ in range(6)]
        gevent.sleep(0.8)
        stage.weir.stop()  # raises unless it ends by itself, with status 0
        gevent.joinall(long, raise_error=True)
        hurt = [call for call in stage.load.calls if call.ending is not Ending.WHOLE or call.status != 200]
        findings.expect(not hurt, f"{len(hurt)} answers suffered: {dict(stage.load.endings())}")
        stage.close_books(findings)
    findings.figures["signals"] = ", ".join(number.name for number in [*sequence, signal.SIGTERM])
    return findings


def reloads(drill: Drill) -> Findings:
    """Send SIGHUP after SIGHUP under load: no plain request fails, streams finish, no record is lost."""
    findings = Findings("reloads")
    with drill.stage("reloads") as stage:
        long: list[gevent.Greenlet] = []
        with stage.load.clients(_CLIENTS, stage.mix.next):
            for number in range(drill.level.reloads):
                before = set(stage.weir.worker_pids())
                long.append(gevent.spawn(stage.load.send, _long_stream(stage, drill)))
                gevent.sleep(0.2)
                stage.weir.send(signal.SIGHUP)
                # The next one only when there are new workers: they are what is to be tried.
                wait_until(partial(_serves_anew, stage, before), PATIENCE_S, "new workers")
                if number % 10 == 9:
                    stage.console.say(f"reloads: {number + 1}, {len(stage.load)} requests")
                    stage.upstream.collect()
            gevent.joinall(long, raise_error=True)
        hurt = [call for call in stage.load.calls if call.ending is not Ending.WHOLE or call.status != 200]
        findings.expect(not hurt, f"{len(hurt)} answers suffered: {dict(stage.load.endings())}")
        stage.close_books(findings)
    findings.figures["reloads"] = drill.level.reloads
    findings.figures["streams across reloads"] = len(long)
    return findings


def _serves_anew(stage: Stage, old: set[int]) -> bool:
    """Return whether all workers of before have made room or are on their way out, and new ones serve."""
    pids = set(stage.weir.worker_pids())
    return len(pids - old) >= _WORKERS and stage.weir.is_ready()


def _long_stream(stage: Stage, drill: Drill) -> Request:
    path = drill.random.choice((CHAT, MESSAGES))
    return make_request(drill.random.choice(stage.callers), path, _LONG, is_stream=True)
