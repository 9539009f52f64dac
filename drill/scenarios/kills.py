"""`kill -9`: of workers one by one, and of everything at once."""

import time

import gevent

from drill.report import Findings
from drill.stage import Drill, Stage
from simulator.launcher import PATIENCE_S, wait_until

_CLIENTS = 16
_WORKERS = 2


def worker_kills(drill: Drill) -> Findings:
    """Kill workers at random moments, also while they start and take over journals."""
    level = drill.level
    return _kill_workers(drill, "worker-kills", level.worker_kills, level.least_requests)


def sync_modes(drill: Drill) -> Findings:
    """Kill workers in the other modes of `JOURNAL_SYNC`: what a process leaves is there in all of them."""
    findings = Findings("sync-modes")
    for mode in ("always", "off"):
        kills = max(5, drill.level.worker_kills // 5)
        findings.absorb(_kill_workers(drill, f"sync-{mode}", kills, 0, mode))
    return findings


def _kill_workers(
    drill: Drill, name: str, kills: int, least_requests: int, journal_sync: str = "group"
) -> Findings:
    findings = Findings(name)
    with drill.stage(name, JOURNAL_SYNC=journal_sync) as stage:
        with stage.load.clients(_CLIENTS, stage.mix.next):
            while findings.kills < kills or len(stage.load) < least_requests:
                gevent.sleep(drill.random.uniform(0.3, 1.0))
                stage.upstream.collect()
                _let_one_serve(stage)
                is_due = len(stage.load) * kills >= least_requests * findings.kills
                if is_due and findings.kills < kills and stage.weir.kill_worker(drill.random):
                    stage.killed(1, findings)
                    if findings.kills % 10 == 0:
                        stage.console.say(f"{name}: {findings.kills}, {len(stage.load)} requests")
            gevent.sleep(0.5)
        stage.close_books(findings)
    return findings


def tree_kills(drill: Drill) -> Findings:
    """Kill master, workers and the embedded MongoDB at once, and start the product again."""
    findings = Findings("tree-kills")
    restarts = []
    with drill.stage("tree-kills", is_embedded=True) as stage:
        with stage.load.clients(_CLIENTS, stage.mix.next):
            for _ in range(drill.level.tree_kills):
                gevent.sleep(drill.random.uniform(0.5, 2.5))
                stage.disconnect()
                since = time.monotonic()
                stage.killed(stage.weir.kill_tree(), findings, since=since)
                restarts.append(stage.weir.start())
                told = f"tree-kills: {len(restarts)}, up again in {restarts[-1]:.1f} s"
                stage.console.say(f"{told}, {len(stage.load)} requests")
                stage.upstream.collect()
            gevent.sleep(1.0)
        stage.close_books(findings)
    findings.figures["trees killed"] = len(restarts)
    findings.figures["slowest restart, s"] = round(max(restarts), 1)
    return findings


def _let_one_serve(stage: Stage) -> None:
    """Wait until one serves: workers that only ever start would be killed without having served anything."""
    wait_until(lambda: len(stage.weir.worker_pids()) == _WORKERS, PATIENCE_S, "the workers to be replaced")
    wait_until(stage.weir.answers, PATIENCE_S, "a worker to serve")
