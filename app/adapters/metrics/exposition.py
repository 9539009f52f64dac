"""The page of `GET /metrics`: the counts and states of all workers, added up, in Prometheus's format."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from app.adapters.metrics.recorder import SUM
from app.adapters.metrics.series import Series
from app.adapters.metrics.status import WorkerStatus, across_workers
from app.core import metric_names as names
from app.core.metric_names import METRICS, MetricSpec


@dataclass(frozen=True, eq=False)
class Snapshot(Collector):
    """Everything there is to show: counts of all workers and the states of those that live."""

    counts: Mapping[Series, float]
    states: Sequence[WorkerStatus]

    def count(self, spec: MetricSpec) -> float:
        """A counter's sum over its labels, as shown."""
        return sum(value for (name, _, _), value in self.counts.items() if name == spec.name) / spec.divisor

    def gauge(self, spec: MetricSpec) -> float:
        """A gauge of all workers together."""
        if spec is names.WORKERS:
            return float(len(self.states))
        return across_workers(spec, self.states)

    def render(self, accept: str) -> tuple[bytes, str]:
        """The page and its content type, in the format the scraper prefers."""
        registry = CollectorRegistry()
        registry.register(self)
        encode, content_type = choose_encoder(accept)
        return encode(registry), content_type

    def describe(self) -> list[Metric]:
        """Nothing: the names are checked by a test."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every metric of the set, in its order."""
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
