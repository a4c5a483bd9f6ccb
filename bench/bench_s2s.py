"""CPU of XMPP federation: a chat stanza from the home link out over S2S with TLS, and one in.

    python -m bench.bench_s2s            a table
    python -m bench.bench_s2s --json     the same as JSON

The process under test is measured alone.  The load generator beside it plays the home server (a
component link with a window of stanzas in flight) and the far server.  Subjects take turns in rounds;
the figure is the median of CPU microseconds per stanza.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

TARGET, GOAL = 1.0, 0.5  # relay / Prosody, in the same run
SUBJECTS = {
    "relay": "home link -> S2S over TLS",
    "send": "S2S over TLS, stanzas ready made",
    "receive": "S2S over TLS -> user",
    "prosody": "Prosody: component -> S2S over TLS",
}
NEAR, FAR = "home.example", "far.example"
HEADER = (
    b"<?xml version='1.0'?><stream:stream xmlns:stream='http://etherx.jabber.org/streams'"
    b" xmlns='jabber:component:accept' from='far.example' id='s1'>"
)
STANZA = (
    "<message from='alice@home.example/phone.123456' to='bob%d@far.example' id='abcdef%08d'"
    " type='chat' xml:lang='en'><body>Hello there, how are you today? This is a text.</body>"
    "<active xmlns='http://jabber.org/protocol/chatstates'/><request xmlns='urn:xmpp:receipts'/>"
    "</message>"
)


def cpu() -> float:
    """Return the CPU seconds used by this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def service(reactor: Any, domain: str, pki: Path, far: str, port: int) -> Any:
    """Return an S2S service; it connects to ``port`` for the other domain."""
    from impfed.config.model import CertificateConfig, TlsConfig
    from impfed.core.ids import IdSource
    from impfed.core.metrics import Metrics
    from impfed.core.trace import Tracer
    from impfed.transport.s2s import S2S, S2SListener, Target
    from impfed.transport.s2s_targets import FixedTargets
    from impfed.transport.tls import TlsStore

    certificate = CertificateConfig("own", pki / f"{domain}.pem", pki / f"{domain}.key")
    store = TlsStore(TlsConfig((certificate,), pki / "Bench-CA.pem"))
    targets = FixedTargets({far: [Target("127.0.0.1", port)]} if port else {})
    return S2S(
        reactor, [S2SListener("127.0.0.1", 0)], [domain], store, "s", targets,
        IdSource(), Metrics(), Tracer(),
    )  # fmt: skip


class Subject:
    """The process under test: tells its S2S port, does its part, prints its figure."""

    def __init__(self, role: str, pki: Path, far: int, home: int, count: int) -> None:
        from twisted.internet import reactor as _reactor

        self.reactor: Any = _reactor
        self.role, self.count, self.home = role, count, home
        self.seen = 0
        self.begun = 0.0
        self.s2s = service(self.reactor, NEAR, pki, FAR, far)
        self.s2s.user = self
        self.s2s.startService()
        print(self.s2s.ports[0], flush=True)
        if role == "relay":
            self.link()
        elif role == "send":
            self.reactor.callWhenRunning(self.burst)

    def link(self) -> None:
        """Be the component of a home server that the load generator plays."""
        from impfed.config.model import HomeConfig
        from impfed.core.ids import IdSource
        from impfed.core.metrics import Metrics
        from impfed.core.trace import Tracer
        from impfed.transport.home import HomeLinks

        home = HomeConfig("h", "component", (NEAR,), "127.0.0.1", self.home, "secret")
        self.links = HomeLinks(
            self.reactor, [home], [], IdSource(), Metrics(), Tracer(), relayed_domains=[FAR]
        )
        self.links.user = Ends(self)
        self.links.relay = real_relay(self, self.links)
        self.links.startService()

    def burst(self) -> None:
        """Send a window of 100, then wait for the acknowledgements to be through."""
        from impfed.xmpp.jid import JID
        from impfed.xmpp.stanza import OutStanza

        alice, bob = JID.parse("alice@home.example/phone.123456"), JID.parse("bob@far.example")
        self.begun = self.begun or cpu()
        for _ in range(min(100, self.count - self.seen)):
            self.seen += 1
            xml = STANZA % (1, self.seen)
            self.s2s.send(OutStanza("message", bob, alice, str(self.seen), xml))
        if self.seen < self.count:
            self.reactor.callLater(1 / 120, self.burst)
        else:
            self.reactor.callLater(0.5, self.finish)

    def stanza_arrived(self, stanza: Any, stream: Any) -> None:
        """Take a stanza from the far side."""
        if stanza.type == "error":
            raise SystemExit(stanza.to_xml())
        self.begun = self.begun or cpu()
        self.seen += 1
        if self.role == "receive" and self.seen == self.count:
            self.finish()

    def finish(self) -> None:
        """Print the figure and end."""
        print(json.dumps({"us": (cpu() - self.begun) / self.seen * 1e6}), flush=True)
        self.reactor.stop()


class Ends:
    """The user of the home link, who has nothing to do but to see the end."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject

    def link_up(self, link: Any) -> None:
        """Nothing to do."""

    def link_down(self, link: Any, reason: str) -> None:
        """The load is through."""
        self._subject.reactor.callLater(0.3, self._subject.finish)


def real_relay(subject: Subject, links: Any) -> Any:
    """Return the node's own relay, which tells the subject of each stanza."""
    from impfed.config.model import ImConfig, PresenceConfig
    from impfed.core.ids import IdSource
    from impfed.core.metrics import Metrics
    from impfed.gateway.authorization import Authorizations
    from impfed.interwork.rewrite import XmppKind
    from impfed.policy.federation import XmppPolicy
    from impfed.policy.limits import NewSubscriptions
    from impfed.policy.users import UserPolicies
    from impfed.relay.ledger import TextLedger
    from impfed.relay.presence import PresenceRewriter
    from impfed.relay.probe import XmppProbe
    from impfed.relay.relay import Lists, Relay
    from impfed.store.memory import MemoryStore
    from impfed.transport.timers import ReactorTimers

    class Counted(Relay):
        def from_home(self, stanza: Any) -> None:
            subject.begun = subject.begun or cpu()
            subject.seen += 1
            super().from_home(stanza)

    kind, seconds = XmppKind.load("xmpp"), subject.reactor.seconds
    store, metrics = MemoryStore(), Metrics()
    relay = Counted(
        links, XmppPolicy(True, own=[NEAR]), frozenset({NEAR}), frozenset(),
        Lists(UserPolicies(store, seconds), Authorizations(store, seconds), NewSubscriptions(60)),
        PresenceConfig(), PresenceRewriter([kind], lambda domain: kind), XmppProbe(IdSource()),
        metrics, ReactorTimers(subject.reactor), ImConfig(),
        TextLedger(store, "bench", IdSource(), seconds, metrics), IdSource(),
    )  # fmt: skip
    relay.streams = subject.s2s
    return relay


class Far:
    """The load generator's far server, and its home server."""

    def __init__(self, pki: Path, near: int) -> None:
        from twisted.internet import reactor as _reactor

        self.reactor: Any = _reactor
        self.seen = 0
        self.s2s = service(self.reactor, FAR, pki, NEAR, near)
        self.s2s.user = self
        self.s2s.startService()

    def stanza_arrived(self, stanza: Any, stream: Any) -> None:
        """Count."""
        self.seen += 1


def home_server(listener: socket.socket, count: int, window: int, far: Far) -> None:
    """Play the home server: a window of stanzas in flight until the far server has seen them."""
    peer, _ = listener.accept()
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    seen = b""
    while b"to='far.example'" not in seen:
        seen += peer.recv(65536)
    peer.sendall(HEADER)
    while b"</handshake>" not in seen:
        seen += peer.recv(65536)
    peer.sendall(b"<handshake/>")
    sent = 0
    while far.seen < count:
        room = min(window - (sent - far.seen), count - sent)
        if room >= min(window // 2, count - sent) and room > 0:
            data = "".join(STANZA % (n % 50, n) for n in range(sent, sent + room))
            peer.sendall(data.encode())
            sent += room
        else:
            time.sleep(0.0005)
    peer.close()


def load_prosody(pki: Path, count: int, window: int) -> None:
    """Be the load generator for Prosody: its component on one side, its S2S peer on the other."""
    from hashlib import sha1

    from demo.parts import free_ports
    from impfed.testing.pki import Issued
    from tests.interop.s2s_peer import PeerProsody, Zone, serve_dns

    far = Far(pki, 0)
    zone = Zone()
    zone.domain(FAR, far.s2s.ports[0])
    _, dns_port = serve_dns(far.reactor, zone)
    peer = PeerProsody(
        pki / "prosody",
        {"unused.example": Issued(pki / f"{NEAR}.pem", pki / f"{NEAR}.key")},
        pki / "Bench-CA.pem",
        dns_port,
        log_level="warn",
    )
    peer.component, peer.component_port = NEAR, free_ports(1)[0]
    peer.start()
    assert peer.part is not None
    peer.part.await_port(peer.component_port)
    statistic = Path(f"/proc/{peer.part.pid}/stat")

    def used() -> float:
        fields = statistic.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def component() -> None:
        home = socket.create_connection(("127.0.0.1", peer.component_port))
        home.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        home.sendall(HEADER.replace(b"from='far.example' id='s1'", b"to='home.example'"))
        seen = b""
        while b" id=" not in seen or not seen.endswith(b">"):
            seen += home.recv(65536)
        id = seen.partition(b" id=")[2][1:].partition(seen.partition(b" id=")[2][:1])[0]
        digest = sha1(id + b"secret").hexdigest()
        home.sendall(f"<handshake>{digest}</handshake>".encode())
        home.recv(65536)
        while not far.seen:  # until its stream stands
            home.sendall((STANZA % (0, 0)).encode())
            time.sleep(0.5)
        begun, sent, far.seen = 0.0, 0, 0
        end = time.monotonic() + 60
        while far.seen < count:
            if time.monotonic() > end:
                print(f"only {far.seen} of {sent} stanzas came through Prosody", file=sys.stderr)
                os._exit(1)
            room = min(window - (sent - far.seen), count - sent)
            if room >= min(window // 2, count - sent) and room > 0:
                begun = begun or used()
                data = "".join(STANZA % (n % 50, n) for n in range(sent, sent + room))
                home.sendall(data.encode())
                sent += room
            else:
                time.sleep(0.0005)
        print(json.dumps({"us": (used() - begun) / count * 1e6}), flush=True)
        home.close()
        peer.stop()
        far.reactor.callFromThread(far.reactor.stop)

    threading.Thread(target=component, daemon=True).start()
    far.reactor.run()


def load(subject: str, pki: Path, count: int, window: int) -> None:
    """Be the load generator for one subject: print what the subject printed."""
    from impfed.xmpp.jid import JID
    from impfed.xmpp.stanza import OutStanza

    holder: dict[str, int] = {}
    far = Far(pki, 0)
    listener = socket.create_server(("127.0.0.1", 0))
    command = [sys.executable, "-m", "bench.bench_s2s", "--subject", subject, "--pki", str(pki)]
    command += ["--far", str(far.s2s.ports[0]), "--home", str(listener.getsockname()[1])]
    command += ["--count", str(count)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    holder["near"] = int(process.stdout.readline())
    if subject == "relay":
        arguments = (listener, count, window, far)
        threading.Thread(target=home_server, args=arguments, daemon=True).start()
    if subject == "receive":
        from impfed.transport.s2s import Target

        table = far.s2s._context.targets.table
        table[NEAR] = [Target("127.0.0.1", holder["near"])]
        alice, bob = JID.parse("alice@home.example"), JID.parse("bob@far.example/x")
        sent = 0

        def burst() -> None:
            nonlocal sent
            for _ in range(min(window, count - sent)):
                sent += 1
                xml = (STANZA % (1, sent)).replace("bob1@far.example", "alice@HOME")
                xml = xml.replace("alice@home.example/phone.123456", "bob@far.example/x")
                xml = xml.replace("alice@HOME", "alice@home.example")
                far.s2s.send(OutStanza("message", alice, bob, str(sent), xml))
            if sent < count:
                far.reactor.callLater(1 / 120, burst)

        far.reactor.callWhenRunning(burst)

    def wait() -> None:
        assert process.stdout is not None
        print(process.stdout.readline().strip(), flush=True)
        process.wait()
        far.reactor.callFromThread(far.reactor.stop)

    threading.Thread(target=wait, daemon=True).start()
    far.reactor.run()


def measure(subject: str, pki: Path, count: int, window: int) -> float:
    """Run one subject once; return CPU microseconds per stanza."""
    command = [sys.executable, "-m", "bench.bench_s2s", "--load", subject, "--pki", str(pki)]
    done = subprocess.run(
        [*command, "--count", str(count), "--window", str(window)],
        check=True,
        capture_output=True,
        text=True,
    )
    return float(json.loads(done.stdout.strip().splitlines()[-1])["us"])


def main() -> None:
    """Measure all subjects, or be a part of that."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=20000)
    parser.add_argument("--window", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    for hidden in ("--subject", "--load", "--pki", "--far", "--home"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.subject:
        pki = Path(options.pki)
        subject = Subject(options.subject, pki, int(options.far), int(options.home), options.count)
        subject.reactor.run()
        return
    if options.load == "prosody":
        load_prosody(Path(options.pki), options.count, options.window)
        return
    if options.load:
        load(options.load, Path(options.pki), options.count, options.window)
        return
    from impfed.testing.pki import make_ca, make_certificate

    with tempfile.TemporaryDirectory() as directory:
        pki = Path(directory)
        authority = make_ca(pki, "Bench CA")
        for domain in (NEAR, FAR):
            make_certificate(authority, pki, domain)
        figures: dict[str, list[float]] = {subject: [] for subject in SUBJECTS}
        for _ in range(options.rounds):
            for subject_name, values in figures.items():
                values.append(measure(subject_name, pki, options.count, options.window))
    medians = {name: statistics.median(values) for name, values in figures.items()}
    if options.json:
        print(json.dumps({"us": medians, "target": TARGET, "goal": GOAL}))
        return
    for name, words in SUBJECTS.items():
        ratio = medians[name] / medians["prosody"]
        print(f"{words:40} {medians[name]:6.1f} µs {ratio:5.2f} x")
    print(f"target {TARGET} x, goal {GOAL} x for the first")


if __name__ == "__main__":
    main()
