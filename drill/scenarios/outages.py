"""MongoDB stopped, killed, slow, losing its replies, flapping, down at the start, and refusing one record."""

import time

import gevent

from drill.latency import Latency
from drill.link import Link
from drill.mix import CHAT, make_request
from drill.report import Findings
from drill.stage import Drill, Stage
from drill.wire import Ending
from simulator.launcher import PATIENCE_S, Overdue, wait_until

P99_FACTOR = 1.10
# Differences of p99 below this are the machine's, and so are those below what the p99 of windows of the same
# quiet time differ by.
P99_FLOOR_MS = 15.0

DRAIN_TIMEOUT_S = 300.0

# With fewer records no rate can be told.
_FEWEST = 1000

_DELAY_S = 5.0


def outage(drill: Drill) -> Findings:
    """Stop the database (SIGSTOP), go on under load, kill it, and have it come back to a backlog."""
    findings = Findings("outage")
    level = drill.level
    with drill.stage("outage", LOG_LEVEL="error") as stage:
        assert stage.store is not None  # noqa: S101  it is the drill's own
        store = stage.store
        with stage.load.steadily(level.rate, stage.mix.steady):
            gevent.sleep(1.0)  # caches and connections warm up
            # A worker that has never met a user cannot look them up without the database.
            wait_until(stage.is_known_everywhere, PATIENCE_S, "each worker to serve each user")
            marks = [time.monotonic()]
            _pass_time(stage, level.calm_s, marks)
            store.pause()
            stage.console.say("outage: the database is stopped")
            _pass_time(stage, level.outage_s / 2, marks)
            store.resume()
            stage.console.say("outage: the database goes on")
            _pass_time(stage, level.calm_s, marks)
            store.kill()
            stage.console.say("outage: the database is killed")
            _pass_time(stage, level.outage_s / 2, marks)
        findings.drained_per_s = _drain(stage, findings)
        _compare_latencies(stage, findings, marks)
        # On a busy machine the load, not the product, may be what falls behind.
        findings.figures["requests per second"] = round(len(stage.load) / (marks[-1] - marks[0]), 1)
        findings.figures["requests left out"] = stage.load.overrun
        findings.figures["outage, seconds"] = round(level.outage_s)
        _expect_all_whole(stage, findings)
        stage.close_books(findings)
    return findings


def slow_store(drill: Drill) -> Findings:
    """Delay every reply by 5 s; then lose replies after the commit; then cut connections."""
    findings = Findings("slow-store")
    with drill.stage("slow-store", is_started=False, LOG_LEVEL="error") as stage:
        assert stage.store is not None  # noqa: S101  it is the drill's own
        with Link(stage.store.socket_path) as link:
            stage.weir.environment["MONGODB_URI"] = link.uri
            stage.weir.start()
            with stage.load.steadily(drill.level.rate / 2, stage.mix.steady):
                gevent.sleep(2.0)
                wait_until(stage.is_known_everywhere, PATIENCE_S, "each worker to serve each user")
                link.delay_s = _DELAY_S
                gevent.sleep(max(2 * _DELAY_S, drill.level.disturbed_s))
                link.delay_s = 0.0
                for _ in range(max(3, int(drill.level.disturbed_s))):
                    link.loses_replies = True
                    gevent.sleep(drill.random.uniform(0.2, 0.8))
                    link.loses_replies = False
                    gevent.sleep(drill.random.uniform(0.1, 0.8))
                    link.cut()
                findings.figures["replies lost"] = link.lost_replies
            _expect_all_whole(stage, findings)
            stage.close_books(findings)
            stage.weir.stop()
    return findings


def cold_start(drill: Drill) -> Findings:
    """Start while the database is down: the fixed key is served, and booked when the database comes."""
    findings = Findings("cold-start")
    with drill.stage("cold-start", is_started=False, LOG_LEVEL="error") as stage:
        assert stage.store is not None  # noqa: S101  it is the drill's own
        stage.store.kill()
        findings.figures["started in, s"] = round(stage.weir.start(), 1)
        fixed, user = stage.callers[0], stage.callers[1]
        for number in range(40):
            play = f"prompt={100 + number},out=20,chunks=3"
            stage.load.send(make_request(fixed, CHAT, play, is_stream=bool(number % 2)))
        _expect_all_whole(stage, findings)
        refused = stage.load.send(make_request(user, CHAT, "out=20", is_stream=False))
        findings.expect(refused.status == 503, f"a user nobody can look up was answered {refused.status}")
        stage.store.start()
        wait_until(lambda: _is_served(stage), PATIENCE_S, "users to be served again")
        stage.close_books(findings)
    return findings


def poison(drill: Drill) -> Findings:
    """Have MongoDB refuse one record: it is put aside, and holds up nobody."""
    findings = Findings("poison")
    with drill.stage("poison", LOG_LEVEL="error") as stage:
        database = stage.database
        wait_until(lambda: "request_logs" in database.list_collection_names(), PATIENCE_S, "the collections")
        gevent.sleep(0.5)
        # An upstream model's name is free-form: what the table itself names is never refused.
        database.command("collMod", "request_logs", validator={"upstreamModel": {"$ne": "gpt-poison"}})
        for number in range(60):
            extra = ",model=gpt-poison" if number == 20 else ""
            caller = stage.callers[number % len(stage.callers)]
            stage.load.send(
                make_request(caller, CHAT, f"prompt={500 + number},out=30{extra}", is_stream=False)
            )
        records = database["request_logs"]
        took = wait_until(lambda: records.count_documents({}) >= 60, PATIENCE_S, "all records")
        findings.figures["all booked after, s"] = round(took, 2)
        letters = list(database["request_logs_dead"].find())
        findings.expect(len(letters) == 1, f"{len(letters)} dead letters")
        findings.expect(
            all("gpt-poison" in str(letter) for letter in letters), "another record was put aside"
        )
        stage.close_books(findings, is_verified=False, reduced=1)
        status, output = stage.weir.flask("verify")
        findings.expect(status == 1 and "dead letter" in output, f"weir verify hides the letter:\n{output}")
        database["request_logs_dead"].delete_many({})
        stage.verify(findings)
    return findings


def _pass_time(stage: Stage, seconds: float, marks: list[float]) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        gevent.sleep(min(left, 10.0))
        stage.upstream.collect()
    marks.append(time.monotonic())
    stage.console.say(f"{stage.directory.name}: {len(stage.load)} requests")


def _drain(stage: Stage, findings: Findings) -> float | None:
    """Bring the database back and see how fast the backlog is booked, with no other traffic."""
    assert stage.store is not None  # noqa: S101  it is the drill's own
    findings.figures["backlog"] = sum(slot.unbooked for slot in stage.slots())
    stage.store.start()
    records, goal = stage.database["request_logs"], len(stage.load)
    began = time.monotonic()
    # Not the estimated count, which a killed server gets wrong.
    looks = [(began, records.count_documents({}))]

    def is_done() -> bool:
        looks.append((time.monotonic(), records.count_documents({})))
        return looks[-1][1] >= goal

    try:
        wait_until(is_done, DRAIN_TIMEOUT_S, "the backlog to be booked", step_s=0.02)
    except Overdue as error:
        findings.problem(f"{error}: {looks[-1][1]} of {goal}")
    findings.figures["backlog booked, s after the database answered"] = round(looks[-1][0] - began, 2)
    # The writer looks for the database every few seconds: what counts is from its first batch on.
    start = max(look for look in looks if look[1] == looks[0][1])
    if goal - start[1] < _FEWEST:
        return None
    return round((goal - start[1]) / (looks[-1][0] - start[0]))


def _compare_latencies(stage: Stage, findings: Findings, marks: list[float]) -> None:
    names = ("before", "while stopped", "between", "while killed")
    measured = {
        name: Latency.of(stage.load.calls, since, until)
        for name, since, until in zip(names, marks, marks[1:], strict=False)
    }
    findings.figures |= {f"latency {name}": latency for name, latency in measured.items()}
    if stage.load.overrun:
        findings.figures["latencies compared"] = "no: this machine does not serve the rate, try --rate"
        return
    if not all(latency.is_telling for latency in measured.values()):
        findings.figures["latencies compared"] = "no: too short a time"
        return
    # The quieter of the two times with a database: a noisy one would excuse anything.
    usual = min(measured["before"], measured["between"], key=lambda latency: latency.p99)
    away = max(measured[name].p99 for name in ("while stopped", "while killed"))
    findings.figures["p99 without the database, of that with it"] = round(away / usual.p99, 3)
    most = max(usual.p99 * P99_FACTOR, usual.p99 + max(P99_FLOOR_MS, usual.p99_spread))
    for name in ("while stopped", "while killed"):
        found = measured[name].p99
        findings.expect(found <= most, f"p99 {name}: {found} ms, usually {usual.p99} ms")


def _expect_all_whole(stage: Stage, findings: Findings) -> None:
    """Expect that, without kills of workers, no answer suffers."""
    hurt = sum(call.ending is not Ending.WHOLE or call.status != 200 for call in stage.load.calls)
    findings.expect(not hurt, f"{hurt} answers suffered: {dict(stage.load.endings())}")


def _is_served(stage: Stage) -> bool:
    user = stage.callers[1]
    return stage.load.send(make_request(user, CHAT, "out=20", is_stream=False)).status == 200
