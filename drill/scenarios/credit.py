"""A user with credit for ten requests sends hundreds at once, and a worker is killed among them."""

import gevent

from app.credit.credit_policy import AMPLE_FACTOR
from drill.books import read_records
from drill.mix import CHAT, make_request
from drill.prices import DEAR_MODEL
from drill.report import Findings
from drill.stage import Drill

_CREDIT_USD = "1.0"
# A thousandth of a dollar each: a request may cost 0.10 USD, and costs 0.08.
_MAX_TOKENS, _OUTPUT = 100, 80

_PLAY = f"prompt=20,out={_OUTPUT},reasoning=0,chunks=10,delay_ms=60"
_WAVES = 3


def overspending(drill: Drill) -> Findings:
    """Overspend: the user spends no more than `app.credit.credit_policy` says, and no hold is left behind."""
    findings = Findings("overspending")
    with drill.stage("overspending", users=0, LOG_LEVEL="error") as stage:
        poor = stage.add_user("poor", _CREDIT_USD)
        stage.callers.append(poor)
        processes = 2
        for wave in range(_WAVES):
            asked = [
                gevent.spawn(
                    stage.load.send,
                    make_request(
                        poor,
                        CHAT,
                        _PLAY,
                        is_stream=True,
                        model=DEAR_MODEL,
                        max_tokens=_MAX_TOKENS,
                        is_all_needed=True,
                    ),
                )
                for _ in range(drill.level.overspenders)
            ]
            gevent.sleep(0.8)
            if wave < _WAVES - 1 and stage.weir.kill_worker(drill.random):
                stage.killed(1, findings)
                processes += 1
            gevent.joinall(asked, raise_error=True)
            gevent.sleep(0.5)
        stage.close_books(findings)
        records = read_records(stage.database).values()
        failed = sum(record["outcome"] == "internal_error" for record in records)
        findings.expect(not failed, f"the proxy itself failed {failed} times")
        held = [record for record in records if record.get("holdNanoUsd")]
        beyond_holds = sum(max(0, record["costNanoUsd"] - record["holdNanoUsd"]) for record in held)
        granted = poor.granted_nano or 0
        bound = processes * granted // AMPLE_FACTOR + beyond_holds
        spent = sum(record["costNanoUsd"] for record in records)
        findings.expect(spent <= granted + bound, f"spent {spent} of {granted}, bound {bound}")
        findings.expect(spent >= granted // 2, f"only {spent} of {granted} could be spent")
    findings.figures["granted, spent, bound (nano-dollars)"] = (granted, spent, bound)
    findings.figures["served with a hold"] = len(held)
    return findings
