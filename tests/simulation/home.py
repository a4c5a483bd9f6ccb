"""The home server: users with their clients, and the component port that a node connects to."""

from __future__ import annotations

import hashlib
from typing import Any
from xml.sax.saxutils import quoteattr

from twisted.internet.protocol import Factory

from tests.simulation.accounts import Accounts, Presence, domain_of
from tests.simulation.cast import SECRET, Home
from tests.simulation.history import History
from tests.simulation.keeping import DIRECTORY, HANDOVER, Keeper
from tests.simulation.loop import SimReactor
from tests.simulation.xml import STREAMS, XmlStream

_NAMESPACE = "jabber:component:accept"


class _Link(XmlStream):
    """The connection of a component.

    :ivar name: the component's.
    """

    def __init__(self, server: HomeServer) -> None:
        super().__init__()
        self._server = server
        self._id = f"{server.reactor.loop.random.getrandbits(32):08x}"
        self._up = False
        self.name = ""

    def began(self, root: Any) -> None:
        """Greet a component."""
        self.name = root.get("to", "")
        self.say(
            f"<?xml version='1.0'?><stream:stream xmlns='{_NAMESPACE}'"
            f" xmlns:stream='{STREAMS}' from='{self.name}' id='{self._id}'>"
        )

    def came(self, element: Any) -> None:
        """Take a stanza, once the component has shown that it knows the secret."""
        if element.tag == f"{{{_NAMESPACE}}}handshake":
            wanted = hashlib.sha1((self._id + SECRET).encode()).hexdigest()
            if element.text != wanted:
                self.transport.loseConnection()
                return
            self._up = True
            self.say("<handshake/>")
            self._server.link_up(self)
        elif self._up:
            self._server.arrived(element, self)
        else:
            self._server.problem(f"{element.tag} came before the handshake")

    def connectionLost(self, reason: Any = None) -> None:
        """Tell the server."""
        self._server.link_down(self)


class HomeServer(Accounts):
    """An XMPP server as its components see it: Prosody with our module, or any other.

    With the module one component carries everything, and what it has not safely is kept; else each
    foreign domain has a component of its own.

    :ivar up: whether its process lives; while none does nobody is logged in.
    """

    def __init__(self, reactor: SimReactor, history: History, home: Home) -> None:
        super().__init__(reactor, history, home.users, _NAMESPACE)
        self._home = home
        self._keeper = Keeper(reactor.loop, self._too_late) if home.kind == "prosody" else None
        self._links: list[_Link] = []
        self._under_way: dict[str, tuple[_Link, float]] = {}  # by the ids of their stanzas
        self.up = False

    # -- life --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Listen for components; the users log in."""
        self.up = True
        factory = Factory()
        factory.noisy = False
        factory.buildProtocol = lambda _: _Link(self)  # type: ignore[method-assign]
        self.reactor.listenTCP(5347, factory)
        for user, contact in sorted(self.may_see_us):
            self._tell(user, contact)

    def restart(self, away: float) -> None:
        """Kill it, and start it again after some seconds; it knows its rosters, and nothing else."""
        if not self.up:
            return
        self.up = False
        loop, network, host = self.reactor.loop, self.reactor.network, self.reactor.host
        network.process_died(self.reactor, False)
        self.reactor = SimReactor(loop, network, host)
        for link in list(self._links):
            self.link_down(link)
        for xml in self._keeper.begin_queue() if self._keeper is not None else ():
            text = self.written.get(_id(xml))
            if text is not None:
                self.history.perhaps_lost(text, 0.0)
        self.seen.clear()
        loop.after(away, self.start)

    def write(self, user: str, contact: str, text: str) -> None:
        """A user writes, unless he is not connected."""
        if self.up:
            super().write(user, contact, text)

    def show(self, user: str, presence: Presence) -> None:
        """A user changes his presence, which is told when he is connected."""
        if self.up:
            super().show(user, presence)
        else:
            self.users[user] = presence

    def watch(self, user: str, contact: str) -> None:
        """A user asks to see somebody, now or when he is connected."""
        self.wanted.add((user, contact))
        if self.up:
            self.ask(user, contact)

    def problem(self, words: str) -> None:
        """Note what a node should not have done."""
        self.history.problems.append(f"{self._home.name}: {words}")

    # -- links -----------------------------------------------------------------------------------

    def link_up(self, link: _Link) -> None:
        """A component is there; a second one of its name takes over (Prosody's "kick_old")."""
        for other in [each for each in self._links if each.name == link.name]:
            other.transport.loseConnection()
        self._links.append(link)
        for user, contact in sorted(self.wanted):
            if self._link_to(contact) is link:
                self.ask(user, contact)

    def link_down(self, link: _Link) -> None:
        """A component is gone, and what its connection held perhaps with it."""
        if self._keeper is not None and link is self._named(link.name):
            self._keeper.lost()
        if link in self._links:
            self._links.remove(link)
        for id, (over, at) in list(self._under_way.items()):
            if over is link:
                del self._under_way[id]
                self.history.perhaps_lost(self.written[id], self.reactor.loop.now - at)

    def _named(self, name: str) -> _Link | None:
        return next((link for link in reversed(self._links) if link.name == name), None)

    def _link_to(self, contact: str) -> _Link | None:
        return self._named(self._home.gate or domain_of(contact))

    def say(self, xml: str, contact: str) -> None:
        """Send it, or have it kept; else it is lost."""
        if self._keeper is not None:
            self._keeper.hand_over(xml)
        else:
            self.answer(xml, contact)

    def answer(self, xml: str, contact: str) -> None:
        """Answer a question of the component's own; nobody else could use the answer."""
        link = self._link_to(contact)
        if link is not None:
            link.say(xml)

    def send_text(self, id: str, xml: str, contact: str) -> None:
        """Send a message; without a component it comes back at once."""
        if self._keeper is not None:
            self._keeper.hand_over(xml)
            return
        link = self._link_to(contact)
        if link is None:
            self.history.returned(self.written[id], "remote-server-timeout")
            return
        self._under_way[id] = link, self.reactor.loop.now
        link.say(xml)

    def _too_late(self, xml: str) -> None:
        """No node has come for a message."""
        text = self.written.get(_id(xml))
        if text is not None:
            self.history.returned(text, "remote-server-timeout")

    def settled(self, text: str) -> None:
        """A text of a user has arrived: nothing of it is under way."""
        for id in [id for id in self._under_way if self.written[id] == text]:
            del self._under_way[id]

    # -- what comes ------------------------------------------------------------------------------

    def arrived(self, element: Any, link: _Link) -> None:
        """A stanza of a component, or what it says of ours."""
        if self._keeper is not None:
            if link is self._named(link.name):
                self._keeper.heard()
            if element.tag == f"{{{HANDOVER}}}a":
                self._keeper.acknowledged(element)
                return
            query = element.find(f"{{{DIRECTORY}}}query")
            if query is not None:
                self._asked(element, query, link, self._keeper)
                return
        sender, to = domain_of(element.get("from", "")), domain_of(element.get("to", ""))
        foreign = sender not in ("", self._home.domain) if self._home.gate else sender == link.name
        if not foreign or to != self._home.domain:
            self.problem(f"{link.name} sends from {sender!r} to {to!r}")
            return
        if element.get("type") == "error":
            self._under_way.pop(element.get("id", ""), None)
        self.handle(element)

    def _asked(self, element: Any, query: Any, link: _Link, keeper: Keeper) -> None:
        """A question to the module: who exists, and what else it can do."""
        greeting = len(query) == 0
        inner = f"<host name='{self._home.domain}'/>{keeper.ability}" if greeting else ""
        for user in query:
            jid = user.get("jid", "")
            state = "exists" if jid in self.users else "absent"
            inner += f"<user jid={quoteattr(jid)} state='{state}'/>"
        to, sender = element.get("to", ""), element.get("from", "")
        link.say(
            f"<iq from='{to}' to='{sender}' id={quoteattr(element.get('id', ''))} type='result'>"
            f"<query xmlns='{DIRECTORY}'>{inner}</query></iq>"
        )
        if greeting and link is self._named(link.name):
            keeper.begin(link.say, link.transport.loseConnection)


def _id(xml: str) -> str:
    """Return the id of a message as a user's client has written it."""
    return xml.partition(" id='")[2].partition("'")[0]
