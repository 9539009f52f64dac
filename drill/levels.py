"""How much each level of the drill does."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Level:
    """Amounts for every scenario; times in seconds, `rate` in requests per second.

    `byte_step` is the distance between the bytes at which a stream is cut (1: at every one).
    """

    name: str
    worker_kills: int
    least_requests: int
    tree_kills: int
    outage_s: float
    calm_s: float
    rate: float
    byte_step: int
    disturbed_s: float
    overspenders: int
    chaos_s: float
    reloads: int
    held_connections: int
    strangers: int


SHORT = Level(
    name="short",
    worker_kills=10,
    least_requests=0,
    tree_kills=2,
    outage_s=8,
    calm_s=2.5,
    rate=60,
    byte_step=61,
    disturbed_s=4,
    overspenders=100,
    chaos_s=8,
    reloads=4,
    held_connections=400,
    strangers=3000,
)
DEFAULT = Level(
    name="default",
    worker_kills=100,
    least_requests=0,
    tree_kills=20,
    outage_s=120,
    calm_s=20,
    rate=200,
    byte_step=1,
    disturbed_s=12,
    overspenders=200,
    chaos_s=30,
    reloads=100,
    held_connections=2000,
    strangers=100000,
)
FULL = replace(
    DEFAULT,
    name="full",
    worker_kills=1000,
    least_requests=200_000,
    tree_kills=100,
    outage_s=3600,
    calm_s=60,
    disturbed_s=60,
    chaos_s=60,
)
LEVELS = {level.name: level for level in (SHORT, DEFAULT, FULL)}
