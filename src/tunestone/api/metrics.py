"""`/metrics`: what Prometheus may ask about this server."""

from collections import Counter as Tally
from collections.abc import Iterable, Mapping
from typing import Any, final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from sqlalchemy import Row, Select, func, select
from sqlalchemy.orm import Session

from tunestone.api.services import Services
from tunestone.jobs.job import MOVES
from tunestone.jobs.store import Store
from tunestone.jobs.tables import Delivery, File, Job, Model

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@final
class Metrics:
    """Counts of one application, in a registry of its own."""

    def __init__(self, services: Services) -> None:
        self._registry = CollectorRegistry()
        labels = ("dialect", "operation")
        self._requests = Counter(
            "tunestone_requests", "Requests answered.", (*labels, "method", "status"),
            registry=self._registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "tunestone_request_seconds", "Time to a whole answer in seconds.", labels,
            buckets=_SECONDS, registry=self._registry,
        )  # fmt: skip
        self._received = Counter(
            "tunestone_received_bytes", "Bytes of request bodies.", registry=self._registry
        )
        self.in_flight = Gauge(
            "tunestone_requests_in_flight", "Requests being answered.", registry=self._registry
        )
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._registry.register(_Stored(services.store))
        self._registry.register(_Answering(services.engine))

    def received(self, size: int) -> None:
        """More bytes of a body came in."""
        self._received.inc(size)

    def answered(
        self, dialect: str, operation: str, method: str, status: int, seconds: float
    ) -> None:
        """A request is done."""
        self._requests.labels(dialect, operation, method, str(status)).inc()
        self._seconds.labels(dialect, operation).observe(seconds)

    def render(self) -> bytes:
        """All of it in Prometheus' text form. Asks the database."""
        return generate_latest(self._registry)


class _Stored(Collector):
    """What the database knows, counted when asked."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def describe(self) -> Iterable[Any]:
        """Nothing: asking the database only to register would be too early."""
        return ()

    def collect(self) -> Iterable[Any]:
        """Jobs by state, the last step of those that train, models, files, what waits."""
        with self._store.session() as session:
            count = func.count()
            jobs = dict.fromkeys(MOVES, 0) | _pairs(session, select(Job.state, count), Job.state)
            models = _pairs(session, select(Model.kind, count), Model.kind)
            size = session.scalar(select(func.coalesce(func.sum(File.bytes), 0)))
            waiting = session.scalar(
                select(count).select_from(Delivery).where(Delivery.done_at.is_(None))
            )
            running = select(Job.id, Job.name, Job.progress).where(Job.state == "running")
            training = session.execute(running).all()
        yield _family("tunestone_jobs", "Jobs by state.", "state", jobs)
        yield _training(training)
        yield _family("tunestone_models", "Models and checkpoints.", "kind", models)
        yield GaugeMetricFamily("tunestone_jobs_waiting", "Jobs in the queue.", jobs["queued"])
        yield GaugeMetricFamily("tunestone_files_bytes", "Bytes of uploaded files.", size)
        yield GaugeMetricFamily("tunestone_notifications_waiting", "Not yet sent.", waiting)


class _Answering(Collector):
    """What the engine says of itself."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def describe(self) -> Iterable[Any]:
        """Nothing: the engine may not have started."""
        return ()

    def collect(self) -> Iterable[Any]:
        """One gauge per number that the engine counts."""
        stats = getattr(self._engine, "stats", None)
        for name, value in Tally(stats() if stats else {}).items():
            yield GaugeMetricFamily(f"tunestone_engine_{name}", "Of the engine.", float(value))


def _training(jobs: Iterable[Row[str, str, dict[str, Any]]]) -> GaugeMetricFamily:
    """What Bedrock's console draws of a job, by its keys there."""
    family = GaugeMetricFamily(
        "tunestone_training", "Of the last step of a job.", labels=("job", "name", "metric")
    )
    for job_id, name, progress in jobs:
        for metric, value in {
            "step": progress.get("step", 0),
            **progress.get("series", {}),
        }.items():
            family.add_metric((job_id, name, metric), value)
    return family


def _pairs(session: Session, question: Select[str, int], column: Any) -> dict[str, int]:
    rows = session.execute(question.group_by(column)).all()
    return {row[0]: row[1] for row in rows}


def _family(name: str, text: str, label: str, values: Mapping[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=(label,))
    for value, count in values.items():
        family.add_metric((value,), count)
    return family
