"""A foreign XMPP server: it is reached by S2S, proves itself by dialback (XEP-0220), and has users.

What its users have written outlives it, as in a server that spools: with acknowledgements (XEP-0198)
what a broken stream has not confirmed goes again over the next one; without, it is gone.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from twisted.internet.protocol import ClientFactory, Factory

from tests.simulation.accounts import Accounts, domain_of
from tests.simulation.cast import XMPP_DOMAIN, XMPP_PARTNER, XMPP_USERS
from tests.simulation.history import History
from tests.simulation.loop import Loop, SimReactor
from tests.simulation.network import Network
from tests.simulation.xml import STREAMS, XmlStream

PORT = 5269
_NAMESPACE = "jabber:server"
_DIALBACK, _SM = "jabber:server:dialback", "urn:xmpp:sm:3"
_HEADER = (
    f"<?xml version='1.0'?><stream:stream xmlns='{_NAMESPACE}' xmlns:db='{_DIALBACK}'"
    f" xmlns:stream='{STREAMS}' version='1.0'"
)
_NO_ANSWER = (
    "<error type='wait'>"
    "<remote-server-timeout xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>"
)
#: Seconds that a stanza waits for a stream, that a stream may take to come about, from one attempt
#: to the next, and that the peer may take to tell its count.
_PATIENCE, _NEGOTIATION, _AGAIN, _COUNT = 60.0, 20.0, 3.0, 60.0
#: Seconds between two spaces on a stream.
_ALIVE = 30.0
#: Seconds by its own clock after which a node counts what its home server has not confirmed yet, and
#: may die with.
_UNSETTLED = 10.0


class _Owner(Protocol):
    """Who wants a stream."""

    def featured(self, stream: _Outgoing, features: Any) -> None:
        """The peer has said what it can do."""

    def came(self, stream: _Outgoing, element: Any) -> None:
        """The peer has said something else."""

    def too_slow(self, stream: _Outgoing) -> None:
        """The time is over in which a stream should come about."""

    def lost(self) -> None:
        """The stream is gone, or did not come about."""


class _Outgoing(XmlStream):
    """A stream that the server has begun.

    :ivar id: as the peer has said.
    """

    def __init__(self, owner: _Owner, domain: str) -> None:
        super().__init__()
        self._owner = owner
        self._domain = domain
        self.id = ""

    def connectionMade(self) -> None:
        """Greet."""
        self.say(f"{_HEADER} from='{XMPP_DOMAIN}' to='{self._domain}'>")

    def began(self, root: Any) -> None:
        """Note what the peer calls the stream."""
        self.id = root.get("id", "")

    def came(self, element: Any) -> None:
        """Tell the owner."""
        if element.tag == f"{{{STREAMS}}}features":
            self._owner.featured(self, element)
        else:
            self._owner.came(self, element)

    def connectionLost(self, reason: Any = None) -> None:
        """Tell the owner."""
        self._owner.lost()


class _Question:
    """Whether one of the node's domains has made a key (XEP-0220 section 2.1.2).

    :param done: called once with the answer; None when there was none.
    """

    def __init__(
        self, server: ForeignServer, domain: str, id: str, key: str, done: Callable[[str], None]
    ) -> None:
        self._words = f"<db:verify from='{XMPP_DOMAIN}' to='{domain}' id='{id}'>{key}</db:verify>"
        self._done = done
        self._open = True
        server.connect(self, domain)

    def featured(self, stream: _Outgoing, features: Any) -> None:
        """Ask."""
        stream.say(self._words)

    def came(self, stream: _Outgoing, element: Any) -> None:
        """Take the answer."""
        if element.tag == f"{{{_DIALBACK}}}verify":
            self._tell(element.get("type", ""))
            stream.transport.loseConnection()

    def too_slow(self, stream: _Outgoing) -> None:
        """It has had its time."""
        stream.transport.abortConnection()

    def lost(self) -> None:
        """There is no answer."""
        self._tell("")

    def _tell(self, verdict: str) -> None:
        if self._open:
            self._open = False
            self._done(verdict)


@dataclass
class _Waiting:
    """A stanza; ``id`` is that of a message of a user's, else ""."""

    xml: str
    id: str
    due: float
    written: float = 0.0


class _Way:
    """The way to one of the node's domains: a stream, and what waits for it or for its count."""

    def __init__(self, server: ForeignServer, domain: str) -> None:
        self.server = server
        self.domain = domain
        self._queue: deque[_Waiting] = deque()
        self._unconfirmed: deque[_Waiting] = deque()
        self._confirmed = 0
        self._stream: _Outgoing | None = None
        self._wanted = False  # whether a stream is there, or on its way
        self._acks = self._asked = False

    def send(self, xml: str, id: str = "") -> None:
        """Send a stanza, or have it wait."""
        now = self.server.loop.now
        self._queue.append(_Waiting(xml, id, now + _PATIENCE))
        self.server.loop.after(_PATIENCE, self._expire)
        self.go_on()

    def go_on(self) -> None:
        """Send what waits, or see to a stream."""
        if self._stream is not None:
            self._flush(self._stream)
        elif self._queue and not self._wanted and self.server.up:
            self._wanted = True
            self.server.connect(_Attempt(self), self.domain)

    def _flush(self, stream: _Outgoing) -> None:
        while self._queue:
            waiting = self._queue.popleft()
            stream.say(waiting.xml)
            if self._acks:
                waiting.written = self.server.loop.now
                self._unconfirmed.append(waiting)
        if self._unconfirmed and not self._asked:
            self._asked = True
            stream.say(f"<r xmlns='{_SM}'/>")
            asked = self._confirmed
            self.server.loop.after(_COUNT, lambda: self._look(stream, asked))

    def _look(self, stream: _Outgoing, asked: int) -> None:
        if self._stream is stream and self._asked and self._confirmed == asked:
            stream.transport.abortConnection()

    def _expire(self) -> None:
        now = self.server.loop.now
        while self._queue and self._queue[0].due <= now:
            waiting = self._queue.popleft()
            if waiting.id:
                words = "remote-server-timeout"
                self.server.history.returned(self.server.written[waiting.id], words)

    # -- the stream --------------------------------------------------------------------------------

    def opened(self, stream: _Outgoing, acks: bool) -> None:
        """The server has proven itself."""
        self._stream, self._acks, self._asked, self._confirmed = stream, acks, False, 0
        if acks:
            stream.say(f"<enable xmlns='{_SM}'/>")
        self._flush(stream)
        self.server.loop.after(_ALIVE, lambda: self._keep_alive(stream))

    def _keep_alive(self, stream: _Outgoing) -> None:
        """Write a space, so that a dead connection is found out before something is sent by it."""
        if self._stream is stream:
            stream.say(" ")
            self.server.loop.after(_ALIVE, lambda: self._keep_alive(stream))

    def counted(self, count: int) -> None:
        """The node has so many stanzas of this stream."""
        self._asked = False
        now = self.server.loop.now
        for _ in range(count - self._confirmed):
            waiting = self._unconfirmed.popleft()
            if waiting.id and now - waiting.written >= _UNSETTLED - self.server.jumps:
                text = self.server.written[waiting.id]
                self.server.history.perhaps_lost(text, now - waiting.written)
        self._confirmed = count
        self.go_on()

    def lost(self) -> None:
        """The stream is gone, or did not come about."""
        self._stream, self._wanted = None, False
        due = self.server.loop.now + _PATIENCE
        for waiting in reversed(self._unconfirmed):
            self._queue.appendleft(_Waiting(waiting.xml, waiting.id, due))
            self.server.loop.after(_PATIENCE, self._expire)
        self._unconfirmed.clear()
        self.server.loop.after(_AGAIN, self.go_on)


class _Attempt:
    """A stream for stanzas, from the first octet on."""

    def __init__(self, way: _Way) -> None:
        self._way = way
        self._acks = self._over = self._proven = False

    def featured(self, stream: _Outgoing, features: Any) -> None:
        """Prove the server's domain."""
        offered = features.find(f"{{{_SM}}}sm") is not None
        self._acks = offered and self._way.server.acks
        key = self._way.server.key(self._way.domain, stream.id)
        stream.say(f"<db:result from='{XMPP_DOMAIN}' to='{self._way.domain}'>{key}</db:result>")

    def came(self, stream: _Outgoing, element: Any) -> None:
        """Take the node's verdict, and its counts."""
        if element.tag == f"{{{_DIALBACK}}}result":
            if element.get("type") == "valid":
                self._proven = True
                self._way.opened(stream, self._acks)
            else:
                stream.transport.loseConnection()
        elif element.tag == f"{{{_SM}}}a":
            self._way.counted(int(element.get("h")))

    def too_slow(self, stream: _Outgoing) -> None:
        """It has to be open by now."""
        if not self._proven:
            stream.transport.abortConnection()

    def lost(self) -> None:
        """Tell the way, once."""
        if not self._over:
            self._over = True
            self._way.lost()


class _Incoming(XmlStream):
    """A stream that a node has begun."""

    def __init__(self, server: ForeignServer) -> None:
        super().__init__()
        self._server = server
        self._id = server.token()
        self._proven: set[str] = set()
        self._counts = False
        self._count = 0

    def began(self, root: Any) -> None:
        """Greet, and say what the server can do."""
        head = f"{_HEADER} from='{XMPP_DOMAIN}' to='{root.get('from', '')}' id='{self._id}'>"
        features = "<dialback xmlns='urn:xmpp:features:dialback'><errors/></dialback>"
        features += f"<sm xmlns='{_SM}'/>" if self._server.acks else ""
        self.say(f"{head}<stream:features>{features}</stream:features>")

    def came(self, element: Any) -> None:
        """Take what a node says."""
        space, _, kind = element.tag.removeprefix("{").partition("}")
        if space == _NAMESPACE:
            self._stanza(element)
        elif space == _DIALBACK and kind == "result":
            self._ask(element.get("from", ""), element.text or "")
        elif space == _DIALBACK and kind == "verify":
            self._verify(element)
        elif space == _SM and kind == "enable":
            self._counts = True
            self.say(f"<enabled xmlns='{_SM}'/>")
        elif space == _SM and kind == "r":
            self.say(f"<a xmlns='{_SM}' h='{self._count}'/>")

    def _stanza(self, element: Any) -> None:
        sender, to = domain_of(element.get("from", "")), domain_of(element.get("to", ""))
        if sender not in self._proven or to != XMPP_DOMAIN:
            words = f"{element.tag} from {sender!r} to {to!r}; proven is {sorted(self._proven)}"
            self._server.history.problems.append(f"{XMPP_DOMAIN}: {words}")
            return
        if self._counts:
            self._count += 1
        self._server.handle(element)

    def _ask(self, domain: str, key: str) -> None:
        def answered(verdict: str) -> None:
            if verdict == "valid":
                self._proven.add(domain)
            head = f"<db:result from='{XMPP_DOMAIN}' to='{domain}' type='{verdict or 'error'}'>"
            self.say(f"{head}{'' if verdict else _NO_ANSWER}</db:result>")

        _Question(self._server, domain, self._id, key, answered)

    def _verify(self, element: Any) -> None:
        domain, id = element.get("from", ""), element.get("id", "")
        verdict = "valid" if element.text == self._server.key(domain, id) else "invalid"
        self.say(f"<db:verify from='{XMPP_DOMAIN}' to='{domain}' id='{id}' type='{verdict}'/>")


class ForeignServer(Accounts):
    """The XMPP server of another organisation.

    :param nodes: where the nodes' servers for XMPP are, all equal (SRV).
    :param acks: whether it knows XEP-0198.
    :param jumps: how many seconds a node's clock may jump.
    :ivar up: whether its process lives.
    """

    def __init__(
        self,
        loop: Loop,
        network: Network,
        history: History,
        nodes: Sequence[str],
        acks: bool,
        jumps: float = 0.0,
    ) -> None:
        self._network = network
        self._nodes = nodes
        self._ways: dict[str, _Way] = {}
        self.loop = loop
        self.acks = acks
        self.jumps = jumps
        self.up = False
        super().__init__(SimReactor(loop, network, XMPP_PARTNER), history, XMPP_USERS, _NAMESPACE)

    # -- life --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Listen; send what the last process has left."""
        self.up = True
        factory = Factory()
        factory.noisy = False
        factory.buildProtocol = lambda _: _Incoming(self)  # type: ignore[method-assign]
        self.reactor.listenTCP(PORT, factory)
        for way in self._ways.values():
            way.go_on()

    def restart(self, away: float) -> None:
        """Kill it, and start it again after some seconds."""
        if not self.up:
            return
        self.up = False
        self._network.process_died(self.reactor, False)
        self.reactor = SimReactor(self.loop, self._network, XMPP_PARTNER)
        for way in self._ways.values():
            way.lost()
        self.loop.after(away, self.start)

    # -- streams -----------------------------------------------------------------------------------

    def token(self) -> str:
        """Return something new."""
        return f"{self.loop.random.getrandbits(48):012x}"

    @staticmethod
    def key(receiving: str, id: str) -> str:
        """Return the dialback key for a stream to one of the node's domains."""
        return hashlib.sha256(f"{receiving} {XMPP_DOMAIN} {id}".encode()).hexdigest()

    def connect(self, owner: _Owner, domain: str) -> None:
        """Begin a stream to one of the node's domains, at whichever node takes it."""
        nodes, reactor = list(self._nodes), self.reactor
        self.loop.random.shuffle(nodes)

        def connected(_: object) -> _Outgoing:
            stream = _Outgoing(owner, domain)
            self.loop.after(_NEGOTIATION, lambda: owner.too_slow(stream))
            return stream

        def attempt(*_: object) -> None:
            if not nodes:
                owner.lost()
                return
            factory = ClientFactory()
            factory.noisy = False
            factory.buildProtocol = connected  # type: ignore[method-assign]
            factory.clientConnectionFailed = attempt  # type: ignore[method-assign]
            reactor.connectTCP(nodes.pop(), PORT, factory, timeout=10)

        attempt()

    # -- for the users -----------------------------------------------------------------------------

    def say(self, xml: str, contact: str) -> None:
        """Send a stanza by the way to its domain."""
        self._way(contact).send(xml)

    def send_text(self, id: str, xml: str, contact: str) -> None:
        """Send a user's message, which comes back if it cannot be sent."""
        self._way(contact).send(xml, id)

    def _way(self, contact: str) -> _Way:
        domain = domain_of(contact)
        if domain not in self._ways:
            self._ways[domain] = _Way(self, domain)
        return self._ways[domain]
