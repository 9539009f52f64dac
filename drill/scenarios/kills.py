"""`kill -9`: of workers one by one, and of everything at once."""

import gevent

from drill.report import Findings
from drill.stage import Drill, Stage
from drill.waiting import wait_until

_CLIENTS = 16
_WORKERS = 2


def worker_kills(drill: Drill) -> Findings:
    """Workers are killed at random moments, also while they start and take over journals."""
    findings = Findings("worker-kills")
    level = drill.level
    with drill.stage("worker-kills") as stage:
        with stage.load.clients(_CLIENTS, stage.mix.next):
            while findings.kills < level.worker_kills or len(stage.load) < level.least_requests:
                gevent.sleep(drill.random.uniform(0.3, 1.0))
                stage.upstream.collect()
                _let_one_serve(stage)
                is_due = len(stage.load) * level.worker_kills >= level.least_requests * findings.kills
                if is_due and findings.kills < level.worker_kills and stage.weir.kill_worker(drill.random):
                    stage.killed(1, findings)
                    if findings.kills % 10 == 0:
                        stage.console.say(f"worker-kills: {findings.kills}, {len(stage.load)} requests")
            gevent.sleep(0.5)
        stage.close_books(findings)
    return findings


def tree_kills(drill: Drill) -> Findings:
    """Master, workers and the embedded MongoDB are killed at once, and the product is started again."""
    findings = Findings("tree-kills")
    restarts = []
    with drill.stage("tree-kills", is_embedded=True) as stage:
        with stage.load.clients(_CLIENTS, stage.mix.next):
            for _ in range(drill.level.tree_kills):
                gevent.sleep(drill.random.uniform(0.5, 2.5))
                stage.disconnect()
                stage.killed(stage.weir.kill_tree(), findings)
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
    """Workers that only ever start would be killed without having served anything."""
    wait_until(lambda: len(stage.weir.worker_pids()) == _WORKERS, 30.0, "the workers to be replaced")
    wait_until(stage.weir.answers, 30.0, "a worker to serve")
