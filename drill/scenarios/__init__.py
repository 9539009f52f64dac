"""The scenarios, each a function from a `Drill` to its `Findings`."""

from collections.abc import Callable

from drill.report import Findings
from drill.scenarios.attacks import attacks
from drill.scenarios.bill import bill
from drill.scenarios.credit import overspending
from drill.scenarios.crowds import slow_clients, strangers
from drill.scenarios.cuts import cuts
from drill.scenarios.elections import replica_set
from drill.scenarios.full_disk import full_disk
from drill.scenarios.key_chaos import key_chaos
from drill.scenarios.key_limits import key_limits
from drill.scenarios.kills import sync_modes, tree_kills, worker_kills
from drill.scenarios.limits import journal_limit
from drill.scenarios.outages import cold_start, outage, poison, slow_store
from drill.scenarios.power_loss import power_loss
from drill.scenarios.signals import reloads, signals
from drill.scenarios.spare_keys import spare_keys
from drill.scenarios.year import year
from drill.stage import Drill

Scenario = Callable[[Drill], Findings]

SCENARIOS: dict[str, Scenario] = {
    "power-loss": power_loss,
    "worker-kills": worker_kills,
    "tree-kills": tree_kills,
    "sync-modes": sync_modes,
    "outage": outage,
    "slow-store": slow_store,
    "poison": poison,
    "cold-start": cold_start,
    "replica-set": replica_set,
    "journal-limit": journal_limit,
    "full-disk": full_disk,
    "cuts": cuts,
    "signals": signals,
    "reloads": reloads,
    "slow-clients": slow_clients,
    "strangers": strangers,
    "bill": bill,
    "year": year,
    "overspending": overspending,
    "attacks": attacks,
    "key-chaos": key_chaos,
    "key-limits": key_limits,
    "spare-keys": spare_keys,
}
"""By the names that `--only` takes, in the order in which they run."""

IN_SHORT = (
    "power-loss",
    "worker-kills",
    "tree-kills",
    "outage",
    "full-disk",
    "cuts",
    "bill",
    "slow-clients",
    "strangers",
    "attacks",
    "key-chaos",
    "key-limits",
    "spare-keys",
)
"""What the short form runs; `reloads` is a test (tests/e2e/test_drills.py), and `make check` runs both."""
