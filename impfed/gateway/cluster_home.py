"""The home links as the gateway of one node of a cluster sees them: each is held by one node.

A home's links belong to the node that owns the made-up pair of :func:`link_pair`, so the cluster places
them, and moves them, as it does with everything else.  What another node has for a home server goes
to the holder as a letter; what became of a message comes back as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec

from impfed.cluster.ownership import Pair
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


class ToHome(msgspec.Struct, tag="to-home", gc=False):
    """A stanza for a home server, on its way to the node that holds the link.

    :ivar number: what the answer refers to; "" when none is wanted.
    """

    kind: str
    to: str
    sender: str
    id: str
    xml: str
    number: str = ""


class Told(msgspec.Struct, tag="told", gc=False):
    """What became of a message."""

    number: str
    outcome: str
    condition: str
    error_type: str
    text: str


class Asks(msgspec.Struct, tag="asks", gc=False):
    """Does a local user exist?  The answer goes to the pair's node."""

    user: str
    local: str
    foreign: str
    number: str


class Exists(msgspec.Struct, tag="exists", gc=False):
    """The answer to that."""

    number: str
    value: str


Errand = ToHome | Told | Asks | Exists


def link_pair(home: str) -> Pair:
    """Return the pair by which the links of a home are placed; no person is called like it."""
    return f"home {home}", "link"


class Post(Protocol):
    """What is asked of the cluster."""

    @property
    def may_act(self) -> bool:
        """Whether this node may act on what it owns."""
        ...

    def send(self, pair: Pair, payload: bytes) -> bool:
        """Bring a letter to the node that owns a pair."""
        ...

    def owner(self, pair: Pair) -> str:
        """Return the node that owns a pair, "" for none."""
        ...


class ClusterHome:
    """Stands where the gateway of a single node has :class:`~impfed.transport.home.HomeLinks`.

    :param links: this node's own links, of which those of :attr:`held` are connected.
    :param acceptance: seconds that a home server may take to accept a message.
    :param node: this node's name.
    :ivar post: the cluster; to be set before the start.
    :ivar held: homes whose links this node holds.
    :ivar announced: homes whose links some node has told to be up.
    """

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
        self._deliveries: dict[str, tuple[Callable[[Delivery], None], Timer]] = {}
        self._questions: dict[str, tuple[Callable[[Existence], None], Timer]] = {}

    # -- for the gateway ---------------------------------------------------------------------------

    def send(self, stanza: OutStanza) -> bool:
        """Write a stanza that needs no confirmation, or have the holder of the link write it."""
        if not self.post.may_act:
            return False
        home = self._home(stanza.to)
        if home in self.held:
            return self.links.send(stanza)
        return home in self.announced and self._post(home, _errand(stanza))

    def deliver(self, stanza: OutStanza, done: Callable[[Delivery], None]) -> None:
        """Write a message under the acceptance barrier, here or at the holder of the link."""
        home = self._home(stanza.to)
        if not self.post.may_act:
            done(unsure_delivery("this node has lost sight of the cluster"))
        elif home in self.held or not home:
            self.links.deliver(stanza, done)
        else:
            number = self._ids.token(8)
            timer = self._timers.after(
                self._acceptance + _ON_THE_WAY,
                self._told,
                number,
                unsure_delivery("the node that holds the home link gave no answer"),
            )
            self._deliveries[number] = (done, timer)
            if not self._post(home, _errand(stanza, number)):
                self._told(number, not_sent("resource-constraint", "too much waits for that node"))

    def congested(self, domain: str, foreign: str = "") -> bool:
        """Say whether a local domain's home server is behind, or connected to nobody."""
        home = self._homes.get(domain)
        if home is None or home.name in self.held:
            return self.links.congested(domain, foreign)
        return home.name not in self.announced

    def pause(self) -> None:
        """Stop reading from the home servers whose links are here."""
        self.links.pause()

    def resume(self) -> None:
        """Go on reading."""
        self.links.resume()

    def exists(self, user: JID, done: Callable[[Existence], None]) -> None:
        """Ask whether a local user exists; the holder of the link knows."""
        home = self._home(user)
        if home in self.held or home not in self.announced:
            self.links.exists(user, done)
            return
        number = self._ids.token(8)
        # The answer comes to whoever owns this made-up pair: it has to be this node.
        while self.post.owner(pair := ("question", number)) not in (self._node, ""):
            number = self._ids.token(8)
        timer = self._timers.after(_EXISTS, self._known, number, Existence.UNKNOWN)
        self._questions[number] = (done, timer)
        self._post(home, Asks(user.text, *pair, number))

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
            pair = (errand.local, errand.foreign)
            number = errand.number
            self.links.exists(
                JID.parse(errand.user),
                lambda found: self._answer(pair, Exists(number, found.value)),
            )
        else:
            self._known(errand.number, Existence(errand.value))

    def _write(self, errand: ToHome) -> None:
        to, sender = JID.parse(errand.to), JID.parse(errand.sender)
        stanza = OutStanza(errand.kind, to, sender, errand.id, errand.xml)
        number, pair = errand.number, (to.bare.text, sender.bare.text)
        if not number:
            self.links.send(stanza)
            return

        def decided(delivery: Delivery) -> None:
            words = (delivery.outcome.value, delivery.condition, delivery.type, delivery.text)
            self._answer(pair, Told(number, *words))

        self.links.deliver(stanza, decided)

    def _answer(self, pair: Pair, errand: Errand) -> None:
        if not self.post.send(pair, msgspec.msgpack.encode(errand)):
            log.warn("answer_dropped", "an answer to another node was dropped: too much waits")

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


def _errand(stanza: OutStanza, number: str = "") -> ToHome:
    return ToHome(stanza.kind, stanza.to.text, stanza.from_.text, stanza.id, stanza.xml, number)
