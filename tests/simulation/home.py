"""The home server: users with their clients, and the component port that a node connects to."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

from twisted.internet.protocol import Factory, Protocol

from tests.simulation.history import History
from tests.simulation.keeping import DIRECTORY, HANDOVER, Keeper
from tests.simulation.loop import SimReactor
from tests.simulation.process import HOME_DOMAIN, PARTNER_DOMAIN, SECRET

_NS = "{jabber:component:accept}"
_STREAMS = "http://etherx.jabber.org/streams"


class _Link(Protocol):
    """The connection of a component."""

    transport: Any

    def __init__(self, server: HomeServer) -> None:
        self._server = server
        self._parser = ElementTree.XMLPullParser(("start", "end"))
        self._depth = 0
        self._id = f"{server.reactor.loop.random.getrandbits(32):08x}"
        self.up = False

    def dataReceived(self, data: bytes) -> None:
        self._parser.feed(data)
        for event, element in self._parser.read_events():
            if event == "start":
                self._depth += 1
                if self._depth == 1:
                    self._begin(element)
                continue
            self._depth -= 1
            if self._depth == 1:
                self._stanza(element)
            elif self._depth == 0:
                self.transport.loseConnection()

    def _begin(self, root: Any) -> None:
        self.say(
            f"<?xml version='1.0'?><stream:stream xmlns='jabber:component:accept'"
            f" xmlns:stream='{_STREAMS}' from='{PARTNER_DOMAIN}' id='{self._id}'>"
        )

    def _stanza(self, element: Any) -> None:
        if element.tag == f"{_NS}handshake":
            wanted = hashlib.sha1((self._id + SECRET).encode()).hexdigest()
            if element.text != wanted:
                self.transport.loseConnection()
                return
            self.up = True
            self.say("<handshake/>")
            self._server.link_up(self)
        elif self.up:
            self._server.arrived(element, self)

    def say(self, xml: str) -> None:
        """Send."""
        self.transport.write(xml.encode())

    def connectionLost(self, reason: Any = None) -> None:
        self._server.link_down(self)


class HomeServer:
    """An XMPP server as a component sees it.

    :param kind: "prosody" with our module, which keeps stanzas until the node has them, or
        "component" without.
    :ivar users: presence of each user, ("", "") for available without a text; None for offline.
    :ivar seen: presence that each user was last shown of each contact.
    :ivar contacts: whom each user may see, and who may see him, bare addresses.
    """

    def __init__(
        self, reactor: SimReactor, history: History, users: list[str], kind: str = "component"
    ) -> None:
        self.reactor = reactor
        self._keeper = Keeper(reactor.loop, self._too_late) if kind == "prosody" else None
        self.history = history
        self.users: dict[str, tuple[str, str] | None] = dict.fromkeys(users, ("", ""))
        self.seen: dict[tuple[str, str], tuple[str, str] | None] = {}
        self.may_see_us: set[tuple[str, str]] = set()
        self.wanted: set[tuple[str, str]] = set()
        self.subscribed: set[tuple[str, str]] = set()
        self._links: list[_Link] = []
        self._count = 0
        self._under_way: dict[str, tuple[str, _Link, float]] = {}
        self._written: dict[str, str] = {}  # texts by their stanzas' ids

    def start(self) -> None:
        """Listen for components."""
        factory = Factory()
        factory.noisy = False
        factory.buildProtocol = lambda _: _Link(self)  # type: ignore[method-assign]
        self.reactor.listenTCP(5347, factory)

    # -- links -----------------------------------------------------------------------------------

    def link_up(self, link: _Link) -> None:
        """A component is there; a second one of its name takes over (Prosody's "kick_old")."""
        for other in [each for each in self._links if each is not link]:
            other.transport.loseConnection()
        self._links.append(link)
        for local, foreign in sorted(self.wanted):
            self._ask(local, foreign)

    def link_down(self, link: _Link) -> None:
        """A component is gone, and what its connection held perhaps with it."""
        if self._keeper is not None and link is self._link:
            self._keeper.lost()
        if link in self._links:
            self._links.remove(link)
        now = self.reactor.loop.now
        for id, (text, over, at) in list(self._under_way.items()):
            if over is link:
                del self._under_way[id]
                self.history.perhaps_lost(text, now - at)

    @property
    def _link(self) -> _Link | None:
        return self._links[-1] if self._links else None

    def _say(self, xml: str) -> bool:
        if self._keeper is not None:
            self._keeper.hand_over(xml)
            return True
        link = self._link
        if link is not None:
            link.say(xml)
        return link is not None

    # -- what users do ---------------------------------------------------------------------------

    def write(self, local: str, foreign: str, text: str) -> None:
        """A user writes to somebody outside."""
        self._count += 1
        id = f"h{self._count}"
        self.history.sent(text, local, foreign, self.reactor.loop.now)
        xml = (
            f"<message from='{local}/pc' to='{foreign}' id='{id}' type='chat'>"
            f"<body>{escape(text)}</body></message>"
        )
        link = self._link
        if self._keeper is not None:
            self._written[id] = text
            self._keeper.hand_over(xml)
            return
        if link is None:
            self.history.returned(text, "remote-server-timeout")
            return
        self._under_way[id] = (text, link, self.reactor.loop.now)
        link.say(xml)

    def show(self, local: str, show: str, status: str) -> None:
        """A user changes his presence."""
        self.users[local] = (show, status)
        for user, foreign in sorted(self.may_see_us):
            if user == local:
                self._tell(local, foreign)

    def leave(self, local: str) -> None:
        """A user logs out."""
        self.users[local] = None
        for user, foreign in sorted(self.may_see_us):
            if user == local:
                self._tell(local, foreign)

    def watch(self, local: str, foreign: str) -> None:
        """A user asks to see somebody outside."""
        self.wanted.add((local, foreign))
        self._ask(local, foreign)

    def _ask(self, local: str, foreign: str) -> None:
        if (local, foreign) in self.subscribed:
            self._say(f"<presence from='{local}/pc' to='{foreign}' type='probe'/>")
        else:
            self._say(f"<presence from='{local}' to='{foreign}' type='subscribe'/>")

    def _tell(self, local: str, foreign: str) -> None:
        presence = self.users[local]
        if presence is None:
            self._say(f"<presence from='{local}/pc' to='{foreign}' type='unavailable'/>")
            return
        show, status = presence
        inner = f"<show>{show}</show>" if show else ""
        inner += f"<status>{escape(status)}</status>" if status else ""
        self._say(f"<presence from='{local}/pc' to='{foreign}'>{inner}</presence>")

    # -- what comes ------------------------------------------------------------------------------

    def arrived(self, element: Any, link: _Link) -> None:
        """A stanza of a component, or what it says of ours."""
        if self._keeper is not None:
            if link is self._link:
                self._keeper.heard()
            if element.tag == f"{{{HANDOVER}}}a":
                self._keeper.acknowledged(element)
                return
            query = element.find(f"{{{DIRECTORY}}}query")
            if query is not None:
                self._asked(element, query, link, self._keeper)
                return
        kind = element.tag.removeprefix(_NS)
        handle: dict[str, Callable[[Any, str, str], None]] = {
            "message": self._message,
            "presence": self._presence,
            "iq": self._iq,
        }
        handle[kind](element, element.get("to", ""), element.get("from", ""))

    def _message(self, element: Any, to: str, sender: str) -> None:
        text = element.findtext(f"{_NS}body") or ""
        bare = to.partition("/")[0]
        if element.get("type") == "error":
            known = self._under_way.pop(element.get("id", ""), None)
            words = "".join(child.tag.rpartition("}")[2] for child in element.iter())
            written = self._written.get(element.get("id", ""))
            if known is not None:
                self.history.returned(known[0], words)
            elif written is not None:
                self.history.returned(written, words)
            elif text:
                self.history.returned(text, words)
            return
        if bare not in self.users:
            inner = "<service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>"
            self._say(
                f"<message from='{to}' to='{sender}' id={quoteattr(element.get('id', ''))}"
                f" type='error'><error type='cancel'>{inner}</error></message>"
            )
            return
        if text:
            self.history.shown(text, bare, self.reactor.loop.now)

    def _presence(self, element: Any, to: str, sender: str) -> None:
        local, foreign = to.partition("/")[0], sender.partition("/")[0]
        type = element.get("type", "")
        if type == "subscribe":
            self.may_see_us.add((local, foreign))
            self._say(f"<presence from='{local}' to='{foreign}' type='subscribed'/>")
            self._tell(local, foreign)
        elif type == "probe":
            if (local, foreign) in self.may_see_us:
                self._tell(local, foreign)
            else:
                self._say(f"<presence from='{local}' to='{foreign}' type='unsubscribed'/>")
        elif type == "subscribed":
            self.subscribed.add((local, foreign))
        elif type == "unsubscribed":
            self.subscribed.discard((local, foreign))
            self.seen[local, foreign] = None
        elif type == "unavailable":
            self.seen[local, foreign] = None
        elif type == "":
            show = element.findtext(f"{_NS}show") or ""
            self.seen[local, foreign] = (show, element.findtext(f"{_NS}status") or "")

    def _iq(self, element: Any, to: str, sender: str) -> None:
        if element.get("type") not in ("get", "set"):
            return
        id = quoteattr(element.get("id", ""))
        if any(child.tag == "{urn:xmpp:ping}ping" for child in element):
            self._answer(f"<iq from='{to}' to='{sender}' id={id} type='result'/>")
            return
        inner = "<service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>"
        self._answer(
            f"<iq from='{to}' to='{sender}' id={id} type='error'>"
            f"<error type='cancel'>{inner}</error></iq>"
        )

    def _answer(self, xml: str) -> None:
        """Answer a question of the component's own; nobody else could use the answer."""
        if self._link is not None:
            self._link.say(xml)

    def _asked(self, element: Any, query: Any, link: _Link, keeper: Keeper) -> None:
        """A question to the module: who exists, and what else it can do."""
        greeting = len(query) == 0
        inner = f"<host name='{HOME_DOMAIN}'/>{keeper.ability}" if greeting else ""
        for user in query:
            jid = user.get("jid", "")
            state = "exists" if jid in self.users else "absent"
            inner += f"<user jid={quoteattr(jid)} state='{state}'/>"
        to, sender = element.get("to", ""), element.get("from", "")
        link.say(
            f"<iq from='{to}' to='{sender}' id={quoteattr(element.get('id', ''))} type='result'>"
            f"<query xmlns='{DIRECTORY}'>{inner}</query></iq>"
        )
        if greeting and link is self._link:
            keeper.begin(link.say, link.transport.loseConnection)

    def _too_late(self, xml: str) -> None:
        """No node has come for a message."""
        id = xml.partition(" id='")[2].partition("'")[0]
        if id in self._written:
            self.history.returned(self._written[id], "remote-server-timeout")

    def settled(self, text: str) -> None:
        """A text of a user has arrived: nothing of it is under way."""
        for id, (known, _, _) in list(self._under_way.items()):
            if known == text:
                del self._under_way[id]
