"""Counters and histograms that one thread feeds, and others read.

The children of ``prometheus_client`` lock at every step and cost 0.4 to 2 µs each; an uneventful
task moves a dozen of them. Here only the event loop writes: a step is an addition of integers,
in the units of the core (ms, nano-dollars), which are scaled when they are read. What reads them
is the library's registry, and the library writes the text.

Rules of the file:
1. One writer. A reader may see one number newer than its neighbour, never half a number.
2. Labels are the strategy's names and closed enums. Whatever happens, a metric has at most
   ``SERIES_MAX`` series; what comes after them is counted under ``other``.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from prometheus_client import Metric as Family
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

SERIES_MAX = 2_000
OTHER = "other"
NOW_SCALE = 1e-3
"""Exemplars keep Unix ms."""


class Kind(Enum):
    """What a metric is."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Merge(Enum):
    """How the figures of several worker processes become one."""

    SUM = "sum"
    MAX = "max"
    """All of them look at the same thing."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. ``name`` is its name in Prometheus; a counter's samples end with ``_total``.

    ``scale`` is what one counted unit is worth in the unit of the name; ``buckets`` are upper
    bounds in counted units.
    """

    name: str
    kind: Kind
    means: str
    labels: tuple[str, ...] = ()
    scale: float = 1.0
    buckets: tuple[float, ...] = ()
    merge: Merge = Merge.SUM

    @property
    def sample(self) -> str:
        """The name that queries use most: of a histogram, that of its buckets."""
        suffix = {Kind.COUNTER: "_total", Kind.HISTOGRAM: "_bucket", Kind.GAUGE: ""}
        return f"{self.name}{suffix[self.kind]}"


class Count:
    """One series of a counter; add to ``value``."""

    __slots__ = ("exemplar", "value")

    def __init__(self) -> None:
        self.value: float = 0
        self.exemplar: tuple[str, int] | None = None
        """The trace of a task that was counted last, and when, in Unix ms."""


class Spread:
    """One series of a histogram."""

    __slots__ = ("bounds", "counts", "exemplars", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """Take the upper bounds; the last bucket has none."""
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total: float = 0
        self.exemplars: dict[int, tuple[str, float, int]] = {}

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def show(self, value: float, trace_id: str, now_ms: int) -> None:
        """Keep a trace as the example of values like this one."""
        self.exemplars[bisect_left(self.bounds, value)] = trace_id, value, now_ms


class Counter(Collector):
    """A counter with its series."""

    def __init__(self, metric: Metric) -> None:
        """Begin without a series."""
        self.metric = metric
        self._series: dict[tuple[str, ...], Count] = {}

    def of(self, *labels: str) -> Count:
        """Find the series of these labels; keep it where it is used often."""
        found = self._series.get(labels)
        if found is None:
            labels = _bounded(labels, self._series)
            found = self._series.setdefault(labels, Count())
        return found

    def collect(self) -> Iterator[Family]:
        """Show every series."""
        metric = self.metric
        family = CounterMetricFamily(metric.name, metric.means)
        for labels, count in list(self._series.items()):
            family.add_sample(
                metric.sample,
                dict(zip(metric.labels, labels, strict=True)),
                count.value * metric.scale,
                exemplar=_exemplar(count.exemplar, 1.0),
            )
        yield family


class Histogram(Collector):
    """A histogram with its series."""

    def __init__(self, metric: Metric) -> None:
        """Begin without a series."""
        self.metric = metric
        self._series: dict[tuple[str, ...], Spread] = {}
        self._bounds = [_written(bound * metric.scale) for bound in metric.buckets]

    def of(self, *labels: str) -> Spread:
        """Find the series of these labels; keep it where it is used often."""
        found = self._series.get(labels)
        if found is None:
            labels = _bounded(labels, self._series)
            found = self._series.setdefault(labels, Spread(self.metric.buckets))
        return found

    def collect(self) -> Iterator[Family]:
        """Show every series; buckets add up, as they do in Prometheus."""
        metric = self.metric
        family = HistogramMetricFamily(metric.name, metric.means)
        for labels, spread in list(self._series.items()):
            named = dict(zip(metric.labels, labels, strict=True))
            total, so_far = spread.total, 0
            exemplars = dict(spread.exemplars)
            for index, bound in enumerate((*self._bounds, "+Inf")):
                so_far += spread.counts[index]
                shown = exemplars.get(index)
                family.add_sample(
                    f"{metric.name}_bucket",
                    {**named, "le": bound},
                    so_far,
                    exemplar=_exemplar((shown[0], shown[2]), shown[1] * metric.scale)
                    if shown
                    else None,
                )
            family.add_sample(f"{metric.name}_count", named, so_far)
            family.add_sample(f"{metric.name}_sum", named, total * metric.scale)
        yield family


Sampled = Mapping[tuple[str, ...], float]
"""Values by labels."""
Take = Callable[[], Mapping[str, Sampled]]


class Samples(Collector):
    """Gauges and counters whose values are asked for when they are read."""

    def __init__(
        self, metrics: Sequence[Metric], take: Callable[[], Mapping[str, Sampled]]
    ) -> None:
        """``take`` answers the values by the names of the metrics; what it leaves out is absent."""
        self._metrics, self._take = metrics, take

    def collect(self) -> Iterator[Family]:
        """Show every value."""
        taken = self._take()
        for metric in self._metrics:
            is_counter = metric.kind is Kind.COUNTER
            made = CounterMetricFamily if is_counter else GaugeMetricFamily
            family = made(metric.name, metric.means)
            for labels, value in list(taken.get(metric.name, {}).items())[:SERIES_MAX]:
                named = dict(zip(metric.labels, labels, strict=True))
                family.add_sample(metric.sample, named, value * metric.scale)
            yield family


def _bounded(labels: tuple[str, ...], series: Mapping[tuple[str, ...], object]) -> tuple[str, ...]:
    return labels if len(series) < SERIES_MAX else (OTHER,) * len(labels)


def _written(bound: float) -> str:
    """Write a bound as the library does, without the noise of its scale."""
    return str(float(f"{bound:.12g}"))


def _exemplar(shown: tuple[str, int] | None, value: float) -> Exemplar | None:
    if shown is None:
        return None
    return Exemplar({"trace_id": shown[0]}, value, shown[1] * NOW_SCALE)
