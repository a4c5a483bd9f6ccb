"""The home links as the gateway of one node of a cluster sees them: each is held by one node.

A home's links belong to the node that owns the made-up pair of :func:`link_pair`, so the cluster places
them, and moves them, as it does with everything else.  What another node has for a home server goes
to the holder as a letter; what became of a message comes back as one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import msgspec

from impfed.cluster.ownership import Pair, node_pair
from impfed.config.model import HomeConfig
from impfed.core.ids import IdSource
from impfed.core.log import EventLog
from impfed.core.timers import Timer
from impfed.transport.home import Delivery, Existence, HomeLinks, Outcome, RosterAnswer, not_sent
from impfed.transport.home import unsure as unsure_delivery
from impfed.transport.rosters import unavailable
from impfed.transport.timers import ReactorTimers
from impfed.xmpp.jid import JID
from impfed.xmpp.stanza import OutStanza

log = EventLog("impfed.cluster")

#: Seconds beyond the acceptance time-out that an answer may take from node to node.
_ON_THE_WAY = 5.0
#: Seconds that another node may take to say whether a user exists.
_EXISTS = 3.0
#: Seconds for which what comes waits for a link that has gone a moment ago: it moves to another node.
_MOVING = 5.0
#: Stanzas that may wait so.
_LATE_LIMIT = 1_000


class ToHome(msgspec.Struct, tag="to-home", gc=False):
    """A stanza for a home server, on its way to the node that holds the link.

    :ivar number: what the answer refers to; "" when none is wanted.
    :ivar node: who wants it.
    """

    kind: str
    to: str
    sender: str
    id: str
    xml: str
    number: str = ""
    node: str = ""


class Told(msgspec.Struct, tag="told", gc=False):
    """What became of a message."""

    number: str
    outcome: str
    condition: str
    error_type: str
    text: str


class Asks(msgspec.Struct, tag="asks", gc=False):
    """Does a local user exist?  The answer goes to the node that asks."""

    user: str
    node: str
    number: str


class Exists(msgspec.Struct, tag="exists", gc=False):
    """The answer to that."""

    number: str
    value: str


Errand = ToHome | Told | Asks | Exists


def link_pair(home: str) -> Pair:
    """Return the pair by which the links of a home are placed; no person is called like it."""
    return f"home {home}", ""


class Post(Protocol):
    """What is asked of the cluster."""

    @property
    def may_act(self) -> bool:
        """Whether this node may act on what it owns."""
        ...

    def send(self, pair: Pair, payload: bytes) -> bool:
        """Bring a letter to the node that owns a pair."""
        ...


class AnyWay:
    """The way to a home server as the relay sees it, whichever node holds the link."""

    __slots__ = ("_home", "_link", "_name")

    def __init__(self, home: ClusterHome, name: str, link: Any) -> None:
        self._home = home
        self._name = name
        self._link = link

    @property
    def up(self) -> bool:
        """Whether stanzas can pass."""
        return self._home.up(self._name, self._link)

    def pass_on(self, stanza: OutStanza) -> bool:
        """Write a relayed stanza, or have it written; False if that cannot be."""
        if self._name in self._home.held and self._link.up:
            return bool(self._link.pass_on(stanza))
        return self._home.send(stanza)


class ClusterHome:
    """Stands where the gateway of a single node has :class:`~impfed.transport.home.HomeLinks`.

    :param links: this node's own links, of which those of :attr:`held` are connected.
    :param acceptance: seconds that a home server may take to accept a message.
    :param node: this node's name.
    :ivar post: the cluster; to be set before the start.
    :ivar held: homes whose links this node holds.
    :ivar announced: homes whose links some node has told to be up.
    """

    # A link that moves from node to node is away for a moment.  What comes for it then waits, in
    # order, until it is up at its new node; so nobody is told that a home server is out of reach.

    post: Post

    def __init__(
        self,
        links: HomeLinks,
        homes: Iterable[HomeConfig],
        timers: ReactorTimers,
        ids: IdSource,
        acceptance: float,
        node: str,
    ) -> None:
        self._node = node
        self.links = links
        self.held: set[str] = set()
        self.announced: frozenset[str] = frozenset()
        self._homes = {domain: home for home in homes for domain in home.domains}
        self._timers = timers
        self._ids = ids
        self._acceptance = acceptance
        self._began = timers.seconds()  # nobody has told us anything yet
        self._seen: dict[str, float] = {}  # when a home's link was up lately, anywhere
        self._unsaid: list[OutStanza] = []  # to be told when this node may act again
        self._late: dict[object, deque[Callable[[], object]]] = {}  # by link
        self._deliveries: dict[str, tuple[Callable[[Delivery], None], Timer]] = {}
        self._questions: dict[str, tuple[Callable[[Existence], None], Timer]] = {}

    @property
    def under_way(self) -> int:
        """Messages whose end another node has to tell, or that wait for a link."""
        return len(self._deliveries) + sum(map(len, self._late.values()))

    # -- for the gateway ---------------------------------------------------------------------------

    def send(self, stanza: OutStanza) -> bool:
        """Write a stanza that needs no confirmation, or have the holder of the link write it."""
        # The last word on what came by a connection of ours may always go by it: where another node
        # has taken the link over it is closed, and else nobody but us can say it.
        if stanza.answers and self.links.send(stanza):
            return True
        if not self.post.may_act:
            if stanza.answers:
                self._unsaid.append(stanza)
            return bool(stanza.answers)
        home = self._home(stanza.to)
        if home in self.held:
            if self._waits(home, stanza, lambda: self.links.send(stanza)):
                return True
            return self.links.send(stanza)
        return self._somewhere(home) and self._post(home, _errand(stanza))

    def deliver(self, stanza: OutStanza, done: Callable[[Delivery], None]) -> None:
        """Write a message under the acceptance barrier, here or at the holder of the link."""
        home = self._home(stanza.to)
        if not self.post.may_act:
            done(unsure_delivery("this node has lost sight of the cluster"))
        elif home in self.held or not home:
            self._deliver(home, stanza, done)
        else:
            number = self._ids.token(8)
            timer = self._timers.after(
                self._acceptance + _ON_THE_WAY,
                self._told,
                number,
                unsure_delivery("the node that holds the home link gave no answer"),
            )
            self._deliveries[number] = (done, timer)
            if not self._post(home, _errand(stanza, number, self._node)):
                self._told(number, not_sent("resource-constraint", "too much waits for that node"))

    def link(self, local: str, foreign: str) -> AnyWay | None:
        """Return the way that stanzas between two domains take, here or at the holder of the link."""
        home, link = self._homes.get(local), self.links.link(local, foreign)
        return None if home is None or link is None else AnyWay(self, home.name, link)

    def up(self, home: str, link: Any) -> bool:
        """Say whether a link of a home is up, wherever it is, or will be in a moment."""
        return (home in self.held and bool(link.up)) or self._somewhere(home)

    def congested(self, domain: str, foreign: str = "") -> bool:
        """Say whether a local domain's home server is behind, or connected to nobody."""
        home = self._homes.get(domain)
        if home is None:
            return self.links.congested(domain, foreign)
        link = self.links.link(domain, foreign)
        if home.name in self.held and (link is None or link.up):
            return self.links.congested(domain, foreign)
        return not self._somewhere(home.name)

    def pause(self) -> None:
        """Stop reading from the home servers whose links are here."""
        self.links.pause()

    def resume(self) -> None:
        """Go on reading."""
        self.links.resume()

    def may_act_again(self) -> None:
        """Tell senders what could not be told while this node acted on nothing."""
        unsaid, self._unsaid = self._unsaid, []
        for stanza in unsaid:
            self.send(stanza)

    def drop(self) -> None:
        """Another node handles again what was to be answered, for it has our letters."""
        self._unsaid.clear()

    def exists(self, user: JID, done: Callable[[Existence], None]) -> None:
        """Ask whether a local user exists; the holder of the link knows."""
        home = self._home(user)
        if home in self.held or home not in self.announced:
            self.links.exists(user, done)
            return
        number = self._ids.token(8)
        timer = self._timers.after(_EXISTS, self._known, number, Existence.UNKNOWN)
        self._questions[number] = (done, timer)
        self._post(home, Asks(user.text, self._node, number))

    def can_write_rosters(self, domain: str) -> bool:
        """Say whether we may approve contacts from this node."""
        return self.links.can_write_rosters(domain)

    def approve(self, local: JID, foreign: JID, done: Callable[[RosterAnswer], None]) -> None:
        """Let a foreign user see a local one's presence; only where the link is."""
        if self._home(local) in self.held:
            self.links.approve(local, foreign, done)
        else:
            done(unavailable("another node holds the home link"))

    # -- letters -----------------------------------------------------------------------------------

    def letter(self, errand: Errand) -> None:
        """Do what a letter asks of this node."""
        if isinstance(errand, ToHome):
            self._write(errand)
        elif isinstance(errand, Told):
            outcome = Outcome(errand.outcome)
            self._told(
                errand.number, Delivery(outcome, errand.condition, errand.error_type, errand.text)
            )
        elif isinstance(errand, Asks):
            node, number = errand.node, errand.number
            self.links.exists(
                JID.parse(errand.user),
                lambda found: self._answer(node, Exists(number, found.value)),
            )
        else:
            self._known(errand.number, Existence(errand.value))

    def _write(self, errand: ToHome) -> None:
        to, sender = JID.parse(errand.to), JID.parse(errand.sender)
        stanza = OutStanza(errand.kind, to, sender, errand.id, errand.xml)
        home, number, node = self._home(to), errand.number, errand.node
        if not number:
            if not self._waits(home, stanza, lambda: self.links.send(stanza)):
                self.links.send(stanza)
            return

        def decided(delivery: Delivery) -> None:
            words = (delivery.outcome.value, delivery.condition, delivery.type, delivery.text)
            self._answer(node, Told(number, *words))

        self._deliver(home, stanza, decided)

    def _answer(self, node: str, errand: Errand) -> None:
        if not self.post.send(node_pair(node), msgspec.msgpack.encode(errand)):
            log.warn("answer_dropped", "an answer to another node was dropped: too much waits")

    # -- links on the move -------------------------------------------------------------------------

    def seen(self, homes: Iterable[str]) -> None:
        """These homes' links are up now, at whichever node."""
        self.announced = frozenset(homes)
        now = self._timers.seconds()
        for home in self.announced:
            self._seen[home] = now

    def came_up(self, home: str, link: object) -> None:
        """A link of a home is up here: what has waited for it goes."""
        self._seen[home] = self._timers.seconds()
        self._go(link)

    def _go(self, link: object) -> None:
        for call in self._late.pop(link, ()):
            call()

    def _somewhere(self, home: str) -> bool:
        """Whether a link is up at some node, or was a moment ago."""
        return self._timers.seconds() < self._seen.get(home, self._began) + _MOVING

    def _deliver(self, home: str, stanza: OutStanza, done: Callable[[Delivery], None]) -> None:
        if not self._waits(home, stanza, lambda: self.links.deliver(stanza, done)):
            self.links.deliver(stanza, done)

    def _waits(self, home: str, stanza: OutStanza, call: Callable[[], object]) -> bool:
        """Have something wait for a link that has not come up here yet; False if it should not."""
        link = self.links.link(stanza.to.domain, stanza.from_.domain)
        late = self._late.get(link)
        moving = late is not None or (link is not None and not link.up and self._somewhere(home))
        if not moving or (late is not None and len(late) >= _LATE_LIMIT):
            return False
        if late is None:
            late = self._late[link] = deque()
            self._timers.after(_MOVING, self._go, link)
        late.append(call)
        return True

    def _told(self, number: str, delivery: Delivery) -> None:
        found = self._deliveries.pop(number, None)
        if found is not None:
            found[1].cancel()
            found[0](delivery)

    def _known(self, number: str, existence: Existence) -> None:
        found = self._questions.pop(number, None)
        if found is not None:
            found[1].cancel()
            found[0](existence)

    def _post(self, home: str, errand: Errand) -> bool:
        return self.post.send(link_pair(home), msgspec.msgpack.encode(errand))

    def _home(self, user: JID) -> str:
        home = self._homes.get(user.domain)
        return "" if home is None else home.name


def _errand(stanza: OutStanza, number: str = "", node: str = "") -> ToHome:
    to, sender = stanza.to.text, stanza.from_.text
    return ToHome(stanza.kind, to, sender, stanza.id, stanza.xml, number, node)
