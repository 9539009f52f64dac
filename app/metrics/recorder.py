"""Counting requests as they end: the only part of the metrics that a request's way passes through."""

import logging
import time
from bisect import bisect_left
from collections.abc import Callable, Container

from app.metrics import metric_names as names
from app.metrics.metric_names import DistinctValues, MetricSpec, one_of, status_label
from app.metrics.series import Cell, SeriesStore
from app.records.records import AttemptRecord, ExchangeRecord, UsageSource

SUM = "sum"
"""The part of a histogram that is the sum of all values; its other parts are numbers of buckets."""

WARNING_EVERY_S = 60.0

log = logging.getLogger(__name__)


class HistogramCells:
    """One histogram: a count per bucket (not cumulated) and the sum."""

    __slots__ = ("_bounds", "_buckets", "_sum")

    def __init__(self, store: SeriesStore, spec: MetricSpec, labels: tuple[str, ...]) -> None:
        self._bounds = spec.buckets
        self._buckets = [
            store.cell(spec.name, labels, str(number)) for number in range(len(spec.buckets) + 1)
        ]
        self._sum = store.cell(spec.name, labels, SUM)

    def observe(self, value: int) -> None:
        """Count a value, in the unit of the buckets."""
        self._buckets[bisect_left(self._bounds, value)].add(1)
        self._sum.add(value)


class _ModelCells:
    """What is counted by format and model."""

    __slots__ = ("costs", "duration", "first_token", "overhead", "tokens")

    def __init__(self, store: SeriesStore, wire_format: str, model: str) -> None:
        self.duration = HistogramCells(store, names.DURATION, (wire_format, model))
        self.first_token = HistogramCells(store, names.FIRST_TOKEN, (wire_format, model))
        self.overhead = HistogramCells(store, names.OVERHEAD, (wire_format,))
        self.costs = [store.cell(names.COST.name, (model, kind)) for kind in names.COST_KINDS]
        self.tokens = [store.cell(names.TOKENS.name, (model, kind)) for kind in names.TOKEN_KINDS]

    def count(self, record: ExchangeRecord) -> None:
        if record.attempts:
            self.duration.observe(record.latency_ms)
            self.overhead.observe(record.overhead_ms)
            if record.ttft_ms is not None:
                self.first_token.observe(record.ttft_ms)
        counts = (
            record.input_tokens,
            record.output_tokens,
            record.cache_write_tokens,
            record.cache_hit_tokens,
            record.reasoning_tokens,
        )
        for cell, count in zip(self.tokens, counts, strict=True):
            if count:
                cell.add(count)
        for cell, nano_usd in zip(self.costs, record.costs, strict=True):
            if nano_usd:
                cell.add(nano_usd)


class RequestRecorder:
    """`app.exchange.ports.RequestObserver`: counts every request, in a few microseconds, and never raises.

    `known_models` says which model ids get a label value of their own. Requests whose cost is doubtful are
    named in the log, one of each kind and model within `WARNING_EVERY_S`.
    """

    def __init__(
        self,
        store: SeriesStore,
        known_models: Callable[[], Container[str]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._warned: dict[tuple[str, str], float] = {}
        self._store = store
        self._known_models = known_models
        self._key_ids = DistinctValues(names.MAX_KEY_IDS)
        self._requests: dict[tuple[str, str | None, str, int], Cell] = {}
        self._models: dict[tuple[str, str | None], _ModelCells] = {}
        self._attempts: dict[tuple[str, int | None], Cell] = {}
        self._inputs: dict[str, list[Cell]] = {}
        self.in_flight = 0

    def opened(self) -> None:
        """Count a request of a known caller that has begun."""
        self.in_flight += 1

    def settled(self, record: ExchangeRecord) -> None:
        """Count a request that has ended."""
        self.in_flight -= 1
        try:
            self._count(record)
        except Exception:
            log.exception("request %s was not counted", record.request_id)

    def refused(self, reason: str) -> None:
        """Count a request that ended without anybody having been identified."""
        self._store.cell(names.UNAUTHENTICATED.name, (one_of(reason, names.REASONS),)).add(1)

    def usage_option_refused(self) -> None:
        """Count that the upstream refused to be asked for a stream's usage."""
        self._store.cell(names.USAGE_OPTION_REFUSED.name, ()).add(1)

    def _count(self, record: ExchangeRecord) -> None:
        wire_format, model = record.api_format, record.model
        key = (wire_format, model, record.outcome, record.status_code)
        cell = self._requests.get(key)
        if cell is None:
            cell = self._requests[key] = self._request_cell(record)
        cell.add(record.count)
        by_model = self._models.get((wire_format, model))
        if by_model is None:
            by_model = self._models[wire_format, model] = self._model_cells(wire_format, model)
        by_model.count(record)
        if record.factory_key_id is not None:
            self._count_input(record, record.factory_key_id)
        for attempt in record.attempts:
            key_and_status = (attempt.factory_key_id, attempt.status_code)
            tries = self._attempts.get(key_and_status)
            if tries is None:
                tries = self._attempt_cell(attempt)
            tries.add(1)
            if attempt.host is not None:
                labels = (str(attempt.host), status_label(attempt.status_code))
                self._store.cell(names.HOST_ATTEMPTS.name, labels).add(1)

        if record.usage_source is UsageSource.ESTIMATE and record.is_success:
            self._doubt(names.ESTIMATED, record, "told no usage and was charged by estimate")
        if record.unpriced:
            self._doubt(names.UNPRICED, record, f"used what has no price: {', '.join(record.unpriced)}")

    def _count_input(self, record: ExchangeRecord, key_id: str) -> None:
        cells = self._inputs.get(key_id)
        if cells is None:
            label = self._key_ids.label(key_id)
            cells = [self._store.cell(names.KEY_INPUT.name, (label, kind)) for kind in names.INPUT_KINDS]
            if label != names.OTHER:
                self._inputs[key_id] = cells
        counts = record.input_tokens, record.cache_write_tokens, record.cache_hit_tokens
        for cell, count in zip(cells, counts, strict=True):
            if count:
                cell.add(count)

    def _doubt(self, spec: MetricSpec, record: ExchangeRecord, what: str) -> None:
        model = one_of(record.model, self._known_models())
        self._store.cell(spec.name, (model,)).add(1)
        now = self._clock()
        if now - self._warned.get((spec.name, model), -WARNING_EVERY_S) >= WARNING_EVERY_S:
            self._warned[spec.name, model] = now
            log.warning("request %s (model %s) %s", record.request_id, record.model, what)

    def _request_cell(self, record: ExchangeRecord) -> Cell:
        labels = (
            one_of(record.api_format, names.FORMATS),
            one_of(record.model, self._known_models()),
            one_of(str(record.outcome), names.OUTCOMES),
            status_label(record.status_code),
        )
        return self._store.cell(names.REQUESTS.name, labels)

    def _model_cells(self, wire_format: str, model: str | None) -> _ModelCells:
        return _ModelCells(
            self._store, one_of(wire_format, names.FORMATS), one_of(model, self._known_models())
        )

    def _attempt_cell(self, attempt: AttemptRecord) -> Cell:
        key_id = self._key_ids.label(attempt.factory_key_id)
        cell = self._store.cell(names.ATTEMPTS.name, (key_id, status_label(attempt.status_code)))
        if key_id != names.OTHER:
            # Not kept for those beyond the bound: there is no end to them.
            self._attempts[attempt.factory_key_id, attempt.status_code] = cell
        return cell
