"""How much each level of the drill does."""

from dataclasses import dataclass, replace

from drill.attacks import KINDS


@dataclass(frozen=True, slots=True)
class Level:
    """Amounts for every scenario; times in seconds, `rate` in requests per second.

    `byte_step` is the distance between the bytes at which a stream is cut (1: at every one), `billed` the
    number of requests that are billed. Of `year_users` users each asks `year_requests` times a month.
    `histories` are played on a model of a disk that loses power; `attack_kinds` are played each by itself,
    before all at once.
    """

    name: str
    worker_kills: int
    least_requests: int
    tree_kills: int
    outage_s: float
    calm_s: float
    rate: float
    byte_step: int
    billed: int
    year_users: int
    year_requests: int
    disturbed_s: float
    overspenders: int
    chaos_s: float
    reloads: int
    held_connections: int
    strangers: int
    elections: int
    election_s: float
    attack_s: float
    attack_kinds: tuple[str, ...]
    histories: int


SHORT = Level(
    name="short",
    worker_kills=10,
    least_requests=0,
    tree_kills=2,
    outage_s=8,
    calm_s=2.5,
    rate=60,
    byte_step=61,
    billed=500,
    year_users=6,
    year_requests=3,
    disturbed_s=4,
    overspenders=100,
    chaos_s=8,
    reloads=4,
    held_connections=400,
    strangers=3000,
    elections=1,
    election_s=2,
    attack_s=10,
    attack_kinds=(),
    histories=2000,
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
    billed=10_000,
    year_users=50,
    year_requests=3,
    disturbed_s=12,
    overspenders=200,
    chaos_s=30,
    reloads=100,
    held_connections=2000,
    strangers=100000,
    elections=5,
    election_s=4,
    attack_s=60,
    attack_kinds=tuple(KINDS),
    histories=20_000,
)
FULL = replace(
    DEFAULT,
    name="full",
    worker_kills=1000,
    least_requests=200_000,
    tree_kills=200,
    billed=100_000,
    year_requests=60,
    outage_s=3600,
    calm_s=60,
    disturbed_s=60,
    chaos_s=60,
    elections=20,
    election_s=10,
    histories=1_000_000,
)
LEVELS = {level.name: level for level in (SHORT, DEFAULT, FULL)}
