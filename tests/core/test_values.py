"""Identifiers, counters, errors, and the live trace."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from impfed.core.errors import ImpfedError, LocalError, RemoteError
from impfed.core.ids import IdSource
from impfed.core.metrics import Metrics
from impfed.core.trace import TraceLine, Tracer


class IdTests(SynchronousTestCase):
    def test_foreseeable_in_tests(self) -> None:
        """With a known source of octets the identifiers are known."""
        ids = IdSource(lambda count: bytes(range(count)))
        self.assertEqual(ids.branch(), "z9hG4bK0001020304050607")
        self.assertEqual(ids.tag(), "000102030405")
        self.assertEqual(ids.token(2), "0001")

    def test_unlike_each_other(self) -> None:
        """Identifiers do not repeat."""
        ids = IdSource()
        self.assertEqual(len({ids.call_id() for _ in range(1000)}), 1000)

    def test_ordered(self) -> None:
        """Ids that tell the order rise within a microsecond, too, and when the clock is set back."""
        ids = IdSource(bytes)
        made = [ids.ordered(now) for now in (10.0, 10.0, 10.0, 9.0, 11.0)]
        self.assertEqual(made, sorted(set(made)))

    def test_uniform(self) -> None:
        """Random numbers cover the whole range and do not leave it."""
        self.assertEqual(IdSource(bytes).uniform(2.0, 3.0), 2.0)
        self.assertEqual(IdSource(lambda count: b"\xff" * count).uniform(2.0, 3.0), 3.0)


class MetricsTests(SynchronousTestCase):
    def test_counters_and_gauges(self) -> None:
        """Counters add up, gauges hold the last value, unknown names are zero."""
        metrics = Metrics()
        metrics.count("b")
        metrics.count("b", 4)
        metrics.gauge("a", 2.5)
        metrics.gauge("a", 1.5)
        self.assertEqual((metrics.value("b"), metrics.value("a"), metrics.value("c")), (5, 1.5, 0))
        self.assertEqual(list(metrics.snapshot().items()), [("a", 1.5), ("b", 5)])


class ErrorTests(SynchronousTestCase):
    def test_families(self) -> None:
        """A fault of the far side carries its answer; ours carries none."""
        error = RemoteError(480, "Temporarily Unavailable", (("Retry-After", "5"),))
        self.assertEqual((error.status, str(error)), (480, "480 Temporarily Unavailable"))
        self.assertNotIsInstance(error, LocalError)
        self.assertIsInstance(error, ImpfedError)


class TracerTests(SynchronousTestCase):
    def test_watchers_come_and_go(self) -> None:
        """Every watcher sees every message until it stops; nobody watching is known."""
        tracer, first, second = Tracer(), list[TraceLine](), list[TraceLine]()
        self.assertFalse(tracer.watching)
        stop_first = tracer.watch(first.append)
        stop_second = tracer.watch(second.append)
        tracer.record(1.0, "sip", True, "peer", b"caf\xe9")
        stop_first()
        stop_first()
        tracer.record(2.0, "xmpp", False, "home", b"<a/>")
        self.assertTrue(tracer.watching)
        stop_second()
        self.assertFalse(tracer.watching)
        self.assertEqual([line.text for line in first], ["caf\N{REPLACEMENT CHARACTER}"])
        self.assertEqual([line.when for line in second], [1.0, 2.0])

    def test_watcher_that_leaves_while_watching(self) -> None:
        """A watcher may stop from within its own call."""
        tracer = Tracer()
        stops = []

        def once(line: TraceLine) -> None:
            stops[0]()

        stops.append(tracer.watch(once))
        tracer.record(1.0, "sip", True, "peer", b"")
        self.assertFalse(tracer.watching)
