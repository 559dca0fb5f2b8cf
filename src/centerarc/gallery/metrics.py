"""What a server counts, in the text format of Prometheus."""

import threading
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

# Seconds up to which requests are counted.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Counts requests by method, route and status, and how long they took by route.

    Example:
        >>> metrics = Metrics()
        >>> metrics.count("GET", "/health", 200, 0.02)
        >>> print(metrics.text({"centerarc_queue": ("Photos that wait.", 3)}))
        # HELP centerarc_requests_total Requests that were answered.
        # TYPE centerarc_requests_total counter
        centerarc_requests_total{method="GET",route="/health",status="200"} 1
        # HELP centerarc_request_seconds Time from a request's start to its answer's end.
        # TYPE centerarc_request_seconds histogram
        centerarc_request_seconds_bucket{route="/health",le="0.005"} 0
        centerarc_request_seconds_bucket{route="/health",le="0.01"} 0
        centerarc_request_seconds_bucket{route="/health",le="0.025"} 1
        centerarc_request_seconds_bucket{route="/health",le="0.05"} 1
        centerarc_request_seconds_bucket{route="/health",le="0.1"} 1
        centerarc_request_seconds_bucket{route="/health",le="0.25"} 1
        centerarc_request_seconds_bucket{route="/health",le="0.5"} 1
        centerarc_request_seconds_bucket{route="/health",le="1"} 1
        centerarc_request_seconds_bucket{route="/health",le="2.5"} 1
        centerarc_request_seconds_bucket{route="/health",le="5"} 1
        centerarc_request_seconds_bucket{route="/health",le="10"} 1
        centerarc_request_seconds_bucket{route="/health",le="+Inf"} 1
        centerarc_request_seconds_sum{route="/health"} 0.02
        centerarc_request_seconds_count{route="/health"} 1
        # HELP centerarc_queue Photos that wait.
        # TYPE centerarc_queue gauge
        centerarc_queue 3
        <BLANKLINE>
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._taken: dict[str, list[int]] = {}
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """Counts a request.

        Args:
            method: Such as GET.
            route: The route's pattern, never the path, which may hold a name.
            status: Of the answer.
            seconds: What it took.
        """
        with self._lock:
            self._requests[method, route, status] += 1
            bins = self._taken.setdefault(route, [0] * (len(BUCKETS) + 1))
            bins[bisect_left(BUCKETS, seconds)] += 1
            self._seconds[route] += seconds

    def text(self, gauges: Mapping[str, tuple[str, float]]) -> str:
        """Returns all that was counted.

        Args:
            gauges: Further numbers by their names, each with what it is.
        """
        with self._lock:
            return "\n".join([*self._lines(), *_gauge_lines(gauges), ""])

    def _lines(self) -> Iterator[str]:
        yield "# HELP centerarc_requests_total Requests that were answered."
        yield "# TYPE centerarc_requests_total counter"
        for (method, route, status), count in sorted(self._requests.items()):
            labels = f'method="{method}",route="{route}",status="{status}"'
            yield f"centerarc_requests_total{{{labels}}} {count}"
        name = "centerarc_request_seconds"
        yield f"# HELP {name} Time from a request's start to its answer's end."
        yield f"# TYPE {name} histogram"
        for route, bins in sorted(self._taken.items()):
            total = 0
            for bound, count in zip((*BUCKETS, None), bins, strict=True):
                total += count
                said = "+Inf" if bound is None else f"{bound:g}"
                yield f'{name}_bucket{{route="{route}",le="{said}"}} {total}'
            yield f'{name}_sum{{route="{route}"}} {self._seconds[route]:.9g}'
            yield f'{name}_count{{route="{route}"}} {total}'


def _gauge_lines(gauges: Mapping[str, tuple[str, float]]) -> Iterator[str]:
    for name, (about, value) in gauges.items():
        yield f"# HELP {name} {about}"
        yield f"# TYPE {name} gauge"
        yield f"{name} {value:.12g}"
