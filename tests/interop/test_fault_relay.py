"""The relay that spoils connections: each fault is seen by who is connected through it."""

from __future__ import annotations

import socket
import time

from twisted.trial.unittest import SynchronousTestCase

from tests.interop.links import Links
from tests.interop.scene import RUN

BIG = bytes(range(256)) * 4096  # 1 MiB
#: No buffer of the kernel holds more than this of what nobody reads.
FLOOD = 64 * len(BIG)


class RelayTests(SynchronousTestCase):
    """A client, the relay, and a server that is a socket of the test's own."""

    timeout = 60

    def setUp(self) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.server.settimeout(20)
        self.addCleanup(self.server.close)
        self.links = Links(RUN / "relay")
        self.addCleanup(self.links.stop)
        self.port = self.links.lead("link", self.server.getsockname()[1])

    def connect(self) -> tuple[socket.socket, socket.socket]:
        """Return both ends of a connection through the relay."""
        near = socket.create_connection(("127.0.0.1", self.port), 20)
        far, _ = self.server.accept()
        far.settimeout(20)
        for end in (near, far):
            self.addCleanup(end.close)
        return near, far

    def read(self, end: socket.socket, size: int) -> bytes:
        """Return so many octets, or those that come before the end."""
        found = b""
        while len(found) < size and (data := end.recv(65536)):
            found += data
        return found

    def silent(self, end: socket.socket, seconds: float = 0.3) -> bool:
        """Whether nothing at all comes for some time, neither octets nor the end."""
        end.settimeout(seconds)
        try:
            end.recv(1)
        except TimeoutError:
            return True
        finally:
            end.settimeout(20)
        return False

    def flood(self, end: socket.socket) -> int:
        """Return how many octets an end takes before it blocks for half a second."""
        end.settimeout(0.5)
        sent = 0
        try:
            while sent < FLOOD:
                sent += end.send(BIG)
        except TimeoutError:
            pass  # that is what is asked
        end.settimeout(20)
        return sent

    def test_nothing_wrong(self) -> None:
        """What is sent arrives unchanged both ways, and so does each end."""
        near, far = self.connect()
        far.sendall(b"hello")
        self.assertEqual(self.read(near, 5), b"hello")
        near.sendall(BIG[:100_000])
        near.shutdown(socket.SHUT_WR)
        self.assertEqual(self.read(far, len(BIG)), BIG[:100_000])
        far.sendall(b"bye")
        far.close()
        self.assertEqual(self.read(near, 100), b"bye")
        report = self.links.tell("report", link="link")
        self.assertEqual(report["carried"], {"out": 100_000, "back": 8})

    def test_latency_and_jitter(self) -> None:
        """Octets come late, one way only, and in their order."""
        self.links.spoil("link", way="out", latency=0.2, jitter=0.1)
        near, far = self.connect()
        begin = time.monotonic()
        near.sendall(b"a")
        near.sendall(b"b")
        self.assertEqual(self.read(far, 2), b"ab")
        self.assertGreaterEqual(time.monotonic() - begin, 0.2)
        begin = time.monotonic()
        far.sendall(b"c")
        self.assertEqual(self.read(near, 1), b"c")
        self.assertLess(time.monotonic() - begin, 0.2)

    def test_bandwidth(self) -> None:
        """A rate is kept to."""
        self.links.spoil("link", rate=100_000)
        near, far = self.connect()
        begin = time.monotonic()
        near.sendall(BIG[:50_000])
        self.assertEqual(self.read(far, 50_000), BIG[:50_000])
        self.assertGreaterEqual(time.monotonic() - begin, 0.4)

    def test_slices(self) -> None:
        """A message comes in pieces of the size that was told."""
        self.links.spoil("link", slice=10)
        near, far = self.connect()
        near.sendall(BIG[:100])
        pieces = [self.read(far, 1)]
        while sum(map(len, pieces)) < 100:
            pieces.append(far.recv(65536))
        self.assertEqual(b"".join(pieces), BIG[:100])
        self.assertGreater(len(pieces), 3)

    def test_hole(self) -> None:
        """A hole swallows all, the end too; whoever fell into it is reset when it is mended."""
        near, far = self.connect()
        self.links.spoil("link", hole=True)
        self.assertGreaterEqual(self.flood(near), FLOOD)
        near.shutdown(socket.SHUT_WR)
        self.assertTrue(self.silent(far))
        self.links.mend("link")
        self.assertRaises(ConnectionResetError, far.recv, 1)

    def test_slow_reader(self) -> None:
        """Where nothing is read the sender is held up; when it is again all comes."""
        near, far = self.connect()
        self.links.spoil("link", way="out", rate=0)
        sent = self.flood(near)
        self.assertLess(sent, FLOOD)
        self.assertTrue(self.silent(far))
        self.links.mend("link")
        self.assertEqual(len(self.read(far, sent)), sent)
        self.assertLess(self.links.tell("report", link="link")["held"], 2 * len(BIG))

    def test_half_close(self) -> None:
        """One way ends, the other goes on."""
        near, far = self.connect()
        self.links.tell("half_close", link="link", way="out")
        self.assertEqual(far.recv(1), b"")
        far.sendall(b"still here")
        self.assertEqual(self.read(near, 10), b"still here")

    def test_reset(self) -> None:
        """Both ends get RST."""
        near, far = self.connect()
        self.links.tell("reset", link="link")
        for end in (near, far):
            self.assertRaises(ConnectionResetError, end.recv, 1)

    def test_limit(self) -> None:
        """After so many octets the connection breaks."""
        self.links.spoil("link", way="out", limit=1000)
        near, far = self.connect()
        near.sendall(BIG[:900])
        self.assertEqual(len(self.read(far, 900)), 900)
        near.sendall(BIG[:900])
        self.assertRaises(ConnectionResetError, near.recv, 1)

    def test_slow_close(self) -> None:
        """The end comes late."""
        self.links.spoil("link", linger=0.5)
        near, far = self.connect()
        near.sendall(b"a")
        near.close()
        self.assertEqual(self.read(far, 1), b"a")
        begin = time.monotonic()
        self.assertEqual(far.recv(1), b"")
        self.assertGreaterEqual(time.monotonic() - begin, 0.4)

    def test_cut(self) -> None:
        """What is connected is reset, what comes is refused, until the link is mended."""
        near, _ = self.connect()
        self.links.cut("link")
        self.assertRaises(ConnectionResetError, near.recv, 1)
        again = ("127.0.0.1", self.port)
        self.assertRaises(ConnectionRefusedError, socket.create_connection, again, 5)
        self.links.mend("link")
        near, far = self.connect()
        near.sendall(b"a")
        self.assertEqual(self.read(far, 1), b"a")
