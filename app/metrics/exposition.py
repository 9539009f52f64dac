"""The page of `GET /metrics`: the counts and states of all workers, added up, in Prometheus's format."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from app.metrics import metric_names as names
from app.metrics.metric_names import METRICS, MetricSpec
from app.metrics.recorder import SUM
from app.metrics.series import Series
from app.metrics.status import WorkerStatus, across_workers


@dataclass(frozen=True, eq=False)
class Snapshot(Collector):
    """Everything there is to show: counts of all workers and the states of those that live."""

    counts: Mapping[Series, float]
    states: Sequence[WorkerStatus]
    fees: Mapping[MetricSpec, Mapping[str, float]] = field(default_factory=dict)
    """By upstream key. All workers know the same."""

    def count(self, spec: MetricSpec) -> float:
        """Sum a counter over its labels, as shown."""
        return sum(value for (name, _, _), value in self.counts.items() if name == spec.name) / spec.divisor

    def gauge(self, spec: MetricSpec) -> float:
        """Return a gauge of all workers together."""
        if spec is names.WORKERS:
            return float(len(self.states))
        return across_workers(spec, self.states)

    def hosts(self) -> list[int]:
        """Return for each upstream host whether all workers use it; nothing where there is only one."""
        count = max((len(state.hosts) for state in self.states), default=0)
        return [
            min(state.hosts[position] for state in self.states if position < len(state.hosts))
            for position in range(count)
        ]

    def render(self, accept: str) -> tuple[bytes, str]:
        """Render the page; return it and its content type, in the format the scraper prefers."""
        registry = CollectorRegistry()
        registry.register(self)
        encode, content_type = choose_encoder(accept)
        return encode(registry), content_type

    def describe(self) -> list[Metric]:
        """Return nothing: the names are checked by a test."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Make every metric of the set, in its order."""
        by_name: dict[str, dict[tuple[str, ...], dict[str, float]]] = {}
        for (name, labels, part), value in sorted(self.counts.items()):
            by_name.setdefault(name, {}).setdefault(labels, {})[part] = value
        for spec in METRICS:
            found = by_name.get(spec.name, {})
            if spec.kind == "counter":
                yield _counter(spec, found)
            elif spec.kind == "histogram":
                yield _histogram(spec, found)
            else:
                yield self._gauge_family(spec)

    def _gauge_family(self, spec: MetricSpec) -> Metric:
        family = GaugeMetricFamily(spec.name, spec.help, labels=spec.labels)
        if spec is names.KEYS:
            for state in names.KEY_STATES:
                family.add_metric([state], max((s.keys.get(state, 0) for s in self.states), default=0))
        elif spec is names.HOSTS_UP:
            for position, is_used in enumerate(self.hosts()):
                family.add_metric([str(position)], is_used)
        elif spec in self.fees:
            for key_id, amount in self.fees[spec].items():
                family.add_metric([key_id], amount)
        elif spec in names.OF_ACCOUNT and not any(spec.name in state.gauges for state in self.states):
            return family  # not known is not 0
        elif spec is names.BUILD:
            for version in sorted({state.version for state in self.states}):
                family.add_metric([version], 1)
        elif spec is names.MODEL_TABLE:
            for version, count in sorted(Counter(state.prices for state in self.states).items()):
                family.add_metric([version], count)
        else:
            family.add_metric([], self.gauge(spec))
        return family


def _counter(spec: MetricSpec, found: Mapping[tuple[str, ...], Mapping[str, float]]) -> Metric:
    family = CounterMetricFamily(spec.name, spec.help, labels=spec.labels)
    if not spec.labels and not found:
        family.add_metric([], 0)
    for labels, parts in found.items():
        family.add_metric(list(labels), sum(parts.values()) / spec.divisor)
    return family


def _histogram(spec: MetricSpec, found: Mapping[tuple[str, ...], Mapping[str, float]]) -> Metric:
    family = HistogramMetricFamily(spec.name, spec.help, labels=spec.labels)
    bounds = [*(str(bound / spec.divisor) for bound in spec.buckets), "+Inf"]
    for labels, parts in found.items():
        total, buckets = 0.0, []
        for number, bound in enumerate(bounds):
            total += parts.get(str(number), 0)
            buckets.append((bound, total))
        family.add_metric(list(labels), buckets, parts.get(SUM, 0) / spec.divisor)
    return family
