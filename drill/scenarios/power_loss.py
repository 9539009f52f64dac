"""Power losses, played on a model of a disk: what was synced is there afterwards, once."""

import logging

import gevent

from drill.report import Findings
from drill.stage import Drill
from tests.support.journal_histories import histories

_TELL_EVERY = 10_000
_BREATHE_EVERY = 100


def power_loss(drill: Drill) -> Findings:
    """Play histories of the journal in which the disk forgets whatever was not synced, and tears writes.

    The journal and its queue are the product's own; beside them nothing runs. The seed decides which
    histories these are; one that fails is named by its number.
    """
    findings, count = Findings("power-loss"), drill.level.histories
    first = drill.random.getrandbits(48)
    logging.disable(logging.CRITICAL)  # the damage in each is logged, which takes longer than the history
    requests = booked = 0
    try:
        for number, history in enumerate(histories(count, first=first, loses_power=True), 1):
            requests += len(history.known)
            booked += len(history.books.outcomes)
            if number % _BREATHE_EVERY == 0:
                gevent.sleep(0)
            if number % _TELL_EVERY == 0:
                drill.console.say(f"power-loss: {number:,} histories")
    finally:
        logging.disable(logging.NOTSET)
    # Of the model's own, which no upstream saw: they are not among the requests of the drill.
    findings.figures |= {"histories": count, "requests in them": requests, "records of these": booked}
    return findings
