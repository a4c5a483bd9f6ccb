"""CPU of the home link, beside wokkel's component: one stanza in and one reply out.

    python -m bench.bench_component            a table
    python -m bench.bench_component --json     the same as JSON, for bench.run

A small home server of the bench's own keeps a window of messages in flight over loopback; the
component under test answers each with a message.  Subjects take turns in rounds, each in a process of
its own; the figure is the median over rounds of CPU microseconds per stanza in the component.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import socket
import statistics
import subprocess
import sys
import threading
from typing import Any

TARGET, GOAL = 0.5, 0.35  # ours / wokkel
DOMAIN = "lync.example"
SUBJECTS = {
    "impfed": "home link, reply without confirmation",
    "impfed-barrier": "home link, reply under the acceptance barrier",
    "wokkel": "wokkel component, domish",
}
HEADER = (
    b"<?xml version='1.0'?><stream:stream xmlns:stream='http://etherx.jabber.org/streams'"
    b" xmlns='jabber:component:accept' from='lync.example' id='s1'>"
)
STANZA = (
    b"<message from='alice@home.example/phone.123456' to='bob%d@lync.example' id='abcdef%08d'"
    b" type='chat' xml:lang='en'><body>Hello there, how are you today? This is a text.</body>"
    b"<active xmlns='http://jabber.org/protocol/chatstates'/><request xmlns='urn:xmpp:receipts'/>"
    b"</message>"
)
PING = re.compile(rb"id='(b[0-9a-f]+)' type='get'><ping")


def read_until(peer: socket.socket, end: bytes) -> None:
    """Read until something has come."""
    seen = b""
    while end not in seen:
        seen += peer.recv(65536)


def home_server(listener: socket.socket, count: int, window: int) -> None:
    """Play the home server for one component: send, count replies, answer pings, close."""
    peer, _ = listener.accept()
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    read_until(peer, b"to='lync.example'")
    peer.sendall(HEADER)
    read_until(peer, b"</handshake>")
    peer.sendall(b"<handshake/>")
    sent = replied = 0
    rest = b""
    while replied < count:
        if window - (sent - replied) >= window // 2:
            more = min(window - (sent - replied), count - sent)
            peer.sendall(b"".join(STANZA % (n % 50, n) for n in range(sent, sent + more)))
            sent += more
        data = rest + peer.recv(1 << 20)
        *complete, rest = data.split(b"</message>")
        replied += len(complete)
        for id in PING.findall(data):
            peer.sendall(b"<iq type='result' from='home.example' to='lync.example' id='%s'/>" % id)
            rest = b""
    peer.close()


class Meter:
    """CPU of this process from the link's coming up to its going down."""

    def __init__(self) -> None:
        self.stanzas = 0
        self._start = 0.0

    def now(self) -> float:
        """Return the CPU seconds used."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime

    def begin(self) -> None:
        """Start."""
        self._start = self.now()

    def finish(self) -> None:
        """Print the result."""
        print(json.dumps({"us": (self.now() - self._start) / max(self.stanzas, 1) * 1e6}))


def run_impfed(port: int, barrier: bool) -> None:
    """Be the component, with the home link."""
    from twisted.internet import reactor as _reactor

    from impfed.config.model import HomeConfig
    from impfed.core.ids import IdSource
    from impfed.core.metrics import Metrics
    from impfed.core.trace import Tracer
    from impfed.transport.home import HomeLinks
    from impfed.xmpp.stanza import message

    reactor: Any = _reactor
    meter = Meter()
    home = HomeConfig("h", "component", ("home.example",), "127.0.0.1", port, "secret")
    links = HomeLinks(reactor, [home], [DOMAIN], IdSource(), Metrics(), Tracer())

    class Echo:
        def stanza_arrived(self, stanza: Any, link: Any) -> None:
            meter.stanzas += 1
            body = stanza.text("body")
            reply = message(stanza.from_, stanza.to, id=stanza.id, body=body)
            if barrier:
                links.deliver(reply, lambda delivery: None)
            else:
                links.send(reply)

        def link_up(self, link: Any) -> None:
            meter.begin()

        def link_down(self, link: Any, reason: str) -> None:
            meter.finish()
            reactor.callLater(0, reactor.stop)

    links.user = Echo()
    links.startService()
    reactor.run()


def run_wokkel(port: int) -> None:
    """Be the component, with wokkel."""
    from twisted.internet import reactor as _reactor
    from twisted.words.xish import domish

    from impfed.transport import wokkel_shim  # noqa: F401  (before wokkel)

    from wokkel.component import Component  # isort: skip
    from wokkel.xmppim import MessageProtocol  # isort: skip

    reactor: Any = _reactor
    meter = Meter()

    class Echo(MessageProtocol):  # type: ignore[misc]
        def connectionInitialized(self) -> None:
            MessageProtocol.connectionInitialized(self)
            meter.begin()

        def onMessage(self, message: Any) -> None:
            meter.stanzas += 1
            reply = domish.Element((None, "message"))
            reply["to"], reply["from"], reply["id"] = message["from"], message["to"], message["id"]
            reply["type"] = "chat"
            reply.addElement("body", content=str(message.body))
            self.send(reply)

        def connectionLost(self, reason: Any) -> None:
            if meter.stanzas:
                meter.finish()
                reactor.stop()

    component = Component("127.0.0.1", port, DOMAIN, "secret")
    Echo().setHandlerParent(component)
    component.startService()
    reactor.run()


def measure(subject: str, count: int, window: int) -> float:
    """Run one subject once; return CPU microseconds per stanza."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=home_server, args=(listener, count, window), daemon=True)
        server.start()
        command = [sys.executable, "-m", "bench.bench_component", "--subject", subject]
        port = listener.getsockname()[1]
        done = subprocess.run(
            [*command, "--port", str(port)], check=True, capture_output=True, text=True
        )
        server.join()
    return float(json.loads(done.stdout.strip().splitlines()[-1])["us"])


def main() -> None:
    """Measure all subjects, or be one of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=20000)
    parser.add_argument("--window", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--subject", choices=SUBJECTS, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.subject == "wokkel":
        run_wokkel(options.port)
        return
    if options.subject:
        run_impfed(options.port, options.subject == "impfed-barrier")
        return
    figures: dict[str, list[float]] = {subject: [] for subject in SUBJECTS}
    for _ in range(options.rounds):
        for subject, values in figures.items():
            values.append(measure(subject, options.count, options.window))
    medians = {subject: statistics.median(values) for subject, values in figures.items()}
    if options.json:
        print(json.dumps({"us": medians, "target": TARGET, "goal": GOAL}))
        return
    for subject, words in SUBJECTS.items():
        ratio = medians[subject] / medians["wokkel"]
        print(f"{words:48} {medians[subject]:6.1f} µs {ratio:5.2f} x")
    print(f"target {TARGET} x, goal {GOAL} x")


if __name__ == "__main__":
    main()
