"""A log of many records, as the admin API shows it: pages of requests, months by user, bytes a record.

The database is made once (`--data DIR` keeps it for the next time): at the level full ten million records of
10,000 users in 30 days, and a fifth of it hourly sums, which take 20 GB and most of an hour.
"""

import statistics
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

from bench.growth import GrownWeir
from bench.native import run_load
from bench.run import Results, Row, Site
from bench.shapes import PLAIN_MODEL, Level, plain
from simulator.launcher import wait_until

FIGURE = "volume"
_OWNERS = 10_000
_TIMES = 15
_COLLECTIONS = ("request_logs", "request_rollups")
_OWN = "records_of_weir"
_LEAST = 500


def measure(site: Site, level: Level, results: Results, data: Path) -> None:
    """Measure over the level's number of records."""
    size = level.volume
    target = GrownWeir(site, data, size, owners=min(_OWNERS, size))
    with ExitStack() as stack:
        stack.callback(target.stop)
        target.start()
        rows: dict[str, Row] = {}
        for name, path in _questions():
            taken = [target.asked(path) for _ in range(_TIMES)]
            rows[name] = {"ms": statistics.median(taken), "most_ms": max(taken)}
            site.say(
                f"{FIGURE}, {size:,}: {name}: {rows[name]['ms']:.1f} ms, {rows[name]['most_ms']:.1f} at most"
            )
        run_load(site.programs, target.aim, plain(level), site.load_core)
        rows |= _sizes(target)
        results.figures[f"{FIGURE}, {size}"] = rows


def _questions() -> Iterator[tuple[str, str]]:
    """Yield what is asked, by a name. Slowest is told, too: it is the first, with nothing in any cache."""
    now = datetime.now(UTC)
    week_ago = quote((now - timedelta(days=7)).isoformat(timespec="seconds"))
    yield "first page", "/request-logs?limit=50"
    yield "a week ago", f"/request-logs?limit=50&to={week_ago}"
    yield "of a user", "/request-logs?limit=50&user=user-17"
    yield "failed", "/request-logs?limit=50&view=failed"
    yield "one in all", "/request-logs?limit=50&user=rare"
    yield "breakdown, 24 h", "/request-logs/breakdown?period=24h"
    yield "30 days by user", "/usage?by=user&period=30d&limit=100"
    yield "month by user", "/usage?by=user&period=month&limit=100"
    yield "last month by user", "/usage?by=user&period=last_month&limit=100"
    yield "30 days by model", "/usage?by=model&period=30d"
    yield "series of a day", "/timeseries?period=24h&by=model"


def _sizes(target: GrownWeir) -> dict[str, Row]:
    """Return what documents take on disk, compressed as MongoDB does it, and their part of the indexes.

    Those that were made are all of some thousand kinds, and compress better than what Weir writes: so its
    own, of the load that was just put on it, are told apart.
    """
    database = target.database()
    logs = database["request_logs"]
    wait_until(lambda: logs.count_documents({"model": PLAIN_MODEL}, limit=_LEAST) == _LEAST, what="records")
    logs.aggregate([{"$match": {"model": PLAIN_MODEL}}, {"$out": _OWN}])
    for name, index in logs.index_information().items():
        options = {key: value for key, value in index.items() if key not in ("key", "v", "ns")}
        if name != "_id_":
            database[_OWN].create_index(index["key"], name=name, **options)
    database.client.admin.command("fsync")  # sizes are those of the last checkpoint
    return {name: _bytes(target, name) for name in (*_COLLECTIONS, _OWN)}


def _bytes(target: GrownWeir, collection: str) -> Row:
    told = target.database().command("collStats", collection)
    count = max(int(told["count"]), 1)
    return {"bytes": told["storageSize"] / count, "index_bytes": told["totalIndexSize"] / count}
