"""The kinds of load that are measured, and how long."""

from dataclasses import dataclass

from bench.native import Shape

PLAIN_MODEL = "b-plain"
BURST_CHUNKS = 200
PACED_CHUNKS, PACED_MS = 100, 20
_BURST_MODEL = f"b-stream-{BURST_CHUNKS}-0"
_PACED_MODEL = f"b-stream-{PACED_CHUNKS}-{PACED_MS}"
_RESPONSE_MODEL = f"b-response-{BURST_CHUNKS}-0"
_IDLE_MODEL = "b-stream-3-60000"
EMBEDDING_MODEL = "b-embedding"
LATE_MS = 200
LATE_MODEL = f"b-late-{LATE_MS}"
STREAM_CHUNKS = 30
STREAM_MODEL = f"b-stream-{STREAM_CHUNKS}-1"
SLOW_MS = 20
SLOW_STREAM_MODEL = f"b-stream-{STREAM_CHUNKS}-{SLOW_MS}"
REFUSED_MODEL = "b-refused"
MODELS = (
    *(PLAIN_MODEL, _BURST_MODEL, _PACED_MODEL, _RESPONSE_MODEL),
    *(_IDLE_MODEL, STREAM_MODEL, REFUSED_MODEL, EMBEDDING_MODEL, LATE_MODEL, SLOW_STREAM_MODEL),
)
CHUNKS_PER_SECOND = 1000 / PACED_MS
"""Of one paced stream."""


@dataclass(frozen=True, slots=True)
class Level:
    """How long and how often: `rounds` of every figure, each for `seconds`; one long run, one at half load.

    `streams` are the numbers of streams that are tried, `volume` the records of a log that has grown.
    """

    name: str
    rounds: int
    seconds: float
    long_run_s: float
    half_load_s: float
    streams: tuple[int, ...]
    volume: int


LEVELS = {
    level.name: level
    for level in (
        Level("short", 1, 2.0, 30.0, 60.0, (200, 1000), 20_000),
        Level("default", 3, 4.0, 240.0, 900.0, (200, 500, 1000, 5000), 1_000_000),
        Level("full", 5, 10.0, 1800.0, 7200.0, (200, 400, 600, 800, 1000, 1500, 5000), 10_000_000),
    )
}


def plain(level: Level) -> Shape:
    """Return the shape of plain answers, 32 connections."""
    return Shape(PLAIN_MODEL, 32, level.seconds)


def burst(level: Level) -> Shape:
    """Return the shape of streams of 200 chunks that the upstream sends at once, 16 connections."""
    return Shape(_BURST_MODEL, 16, level.seconds, chunks=BURST_CHUNKS)


def responses(level: Level) -> Shape:
    """Return the shape of such bursts through the Responses API."""
    return Shape(_RESPONSE_MODEL, 16, level.seconds, chunks=BURST_CHUNKS, path="/v1/responses")


def embeddings(level: Level) -> Shape:
    """Return the shape of embeddings, vectors of 1,536 numbers, 32 connections."""
    return Shape(EMBEDDING_MODEL, 32, level.seconds, path="/v1/embeddings")


def paced(level: Level, streams: int) -> Shape:
    """Return the shape of `streams` streams at a time, a chunk every 20 ms in each, begun one by one."""
    return Shape(_PACED_MODEL, streams, level.seconds, ramp_s=2.0, chunks=PACED_CHUNKS)


def idle(streams: int) -> Shape:
    """Return the shape of streams that stay open after their first chunk."""
    return Shape(_IDLE_MODEL, streams, 60, ramp_s=1.0, chunks=3)
