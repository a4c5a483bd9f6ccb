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
from impfed.transport.rosters import TIMEOUT, Deed, RosterOutcome, unavailable
from impfed.transport.timers import ReactorTimers
from impfed.xmpp.jid import JID
from impfed.xmpp.stanza import OutStanza

log = EventLog("impfed.cluster")

#: Seconds beyond the acceptance time-out that an answer may take from node to node.
_ON_THE_WAY = 5.0
#: Seconds that another node may take to say whether a user exists.
_EXISTS = 3.0
#: Seconds that a change of a roster may take there.
_ROSTER = TIMEOUT + _ON_THE_WAY
#: Seconds for which what comes waits for a link that has gone a moment ago: it moves to another node.
_MOVING = 5.0
#: Stanzas that may wait so; the last of them only texts, for when a link moves subscriptions often do, too.
_LATE_LIMIT, _LATE_TEXTS = 10_000, 2_000
#: Seconds after which a last word is tried again, and how many may wait for that.
_AGAIN, _UNSAID_LIMIT = 5.0, 10_000
_TOO_MUCH = "too much waits for that node"


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


class Roster(msgspec.Struct, tag="roster", gc=False):
    """A change of a local user's roster, on its way to the node that holds the link.

    :ivar deed: a :class:`~impfed.transport.rosters.Deed`.
    :ivar name: what a contact is called, "" for nothing.
    :ivar node: who wants to know what became of it.
    """

    deed: str
    user: str
    contact: str
    name: str
    node: str
    number: str


class RosterTold(msgspec.Struct, tag="roster-told", gc=False):
    """What became of it."""

    number: str
    outcome: str
    text: str


Errand = ToHome | Told | Asks | Exists | Roster | RosterTold


def link_pair(home: str) -> Pair:
    """Return the pair by which the links of a home are placed; no person is called like it."""
    return f"home {home}", ""


class Post(Protocol):
    """What is asked of the cluster."""

    @property
    def may_act(self) -> bool:
        """Whether this node may act on what it owns."""
        ...

    def send(self, pair: Pair, payload: bytes, *, presence: bool = False) -> bool:
        """Bring a letter to the node that owns a pair; presence leaves room for texts."""
        ...

    def stuck(self, pair: Pair) -> bool:
        """Whether a letter would not leave this node now."""
        ...

    def waits(self, pair: Pair) -> bool:
        """Whether a letter for a pair of this node would wait behind what nodes before it have left."""
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
        if self._home.writes(self._name) and self._link.up:
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
    :ivar rosters: local domains whose users' rosters may be written, as the holders of links have told.
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
        self.rosters: frozenset[str] = frozenset()
        self._homes = {domain: home for home in homes for domain in home.domains}
        self._timers = timers
        self._ids = ids
        self._acceptance = acceptance
        self._began = timers.seconds()  # nobody has told us anything yet
        self._seen: dict[str, float] = {}  # when a home's link was up lately, anywhere
        self._unsaid: list[OutStanza] = []  # last words that could not be told yet
        self._saying: Timer | None = None
        self._drops = 0
        self._pauses = 0
        self._late: dict[object, deque[Callable[[], object]]] = {}  # by link
        self._open: dict[str, tuple[Callable[[Any], object], Timer]] = {}  # what nodes were asked

    @property
    def under_way(self) -> int:
        """Messages and questions whose end another node has to tell, or that wait for a link."""
        return len(self._open) + sum(map(len, self._late.values()))

    # -- for the gateway ---------------------------------------------------------------------------

    def send(self, stanza: OutStanza) -> bool:
        """Write a stanza that needs no confirmation, or have the holder of the link write it."""
        # The last word on what came by a connection of ours may always go by it: where another node
        # has taken the link over it is closed, and else nobody but us can say it.
        if stanza.answers:
            return self.links.send(stanza) or self._say_last(stanza)
        if not self.post.may_act:
            return False
        home = self._home(stanza.to)
        if self.writes(home):
            if self._waits(home, stanza, lambda: self.links.send(stanza)):
                return True
            return self.links.send(stanza)
        return self._somewhere(home) and self._post(home, _errand(stanza))

    def deliver(self, stanza: OutStanza, done: Callable[[Delivery], None]) -> None:
        """Write a message under the acceptance barrier, here or at the holder of the link."""
        home = self._home(stanza.to)
        if not self.post.may_act:
            done(unsure_delivery("this node has lost sight of the cluster"))
        elif self.writes(home) or not home:
            self._deliver(home, stanza, done)
        elif self.post.stuck(link_pair(home)):
            # It would arrive when its sender has long been told that it did not.
            done(not_sent("resource-constraint", "nothing can be brought to the home link now"))
        else:
            silent = unsure_delivery("the node that holds the home link gave no answer")
            number = self._await(done, self._acceptance + _ON_THE_WAY, silent)
            if not self._post(home, _errand(stanza, number, self._node)):
                self._told(number, not_sent("resource-constraint", _TOO_MUCH))

    def writes(self, home: str) -> bool:
        """Say whether what is for a home goes over a link of this node at once.

        What a holder before has left, or has still to pass on, comes first, and what waits behind that.
        """
        return home in self.held and not self.post.waits(link_pair(home))

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
        return not self._somewhere(home.name) or self.post.stuck(link_pair(home.name))

    def pause(self) -> None:
        """Stop reading from the home servers whose links are here."""
        self._pauses += 1
        if self._pauses == 1:
            self.links.pause()

    def resume(self) -> None:
        """Go on reading, when everybody who had it stopped wants that."""
        self._pauses -= 1
        if not self._pauses:
            self.links.resume()

    def may_act_again(self) -> None:
        """Tell senders what could not be told while this node acted on nothing, or no link was up."""
        unsaid, self._unsaid = self._unsaid, []
        for stanza in unsaid:
            self._say_last(stanza)

    def _say_last(self, stanza: OutStanza) -> bool:
        """Have the last word on a text reach its home server, now or later; False if too many wait."""

        drops = self._drops

        def decided(delivery: Delivery) -> None:
            told = delivery.outcome not in (Outcome.UNSURE, Outcome.NOT_SENT)
            if not told and drops == self._drops:
                self._unsaid.append(stanza)
                if self._saying is None:
                    self._saying = self._timers.after(_AGAIN, self._say_again)

        if len(self._unsaid) >= _UNSAID_LIMIT:
            return False
        self.deliver(stanza, decided)
        return True

    def _say_again(self) -> None:
        self._saying = None
        self.may_act_again()

    def drop(self) -> None:
        """Another node handles again what was to be answered, for it has our letters."""
        self._unsaid.clear()
        self._drops += 1

    def exists(self, user: JID, done: Callable[[Existence], None]) -> None:
        """Ask whether a local user exists; the holder of the link knows."""
        home = self._home(user)
        if home in self.held or home not in self.announced:
            self.links.exists(user, done)
            return
        number = self._await(done, _EXISTS, Existence.UNKNOWN)
        self._post(home, Asks(user.text, self._node, number))

    # -- rosters -----------------------------------------------------------------------------------

    def can_write_rosters(self, domain: str) -> bool:
        """Say whether we may approve contacts in the rosters of a local domain's users now."""
        home = self._homes.get(domain)
        if home is None or home.name in self.held:
            return self.links.can_write_rosters(domain)
        return domain in self.rosters

    def writes_rosters(self) -> list[str]:
        """Return the local domains whose users' rosters may be written from this node."""
        return [
            domain
            for domain, home in self._homes.items()
            if home.name in self.held and self.links.can_write_rosters(domain)
        ]

    def approve(self, local: JID, foreign: JID, done: Callable[[RosterAnswer], None]) -> None:
        """Let a foreign user see a local one's presence, as if he had approved him himself."""
        self._change_roster(Deed.APPROVE, local, foreign, "", done)

    def cancel_approval(
        self, local: JID, foreign: JID, done: Callable[[RosterAnswer], None]
    ) -> None:
        """Take an approval back, or decline a request, as if the local user had done it himself."""
        self._change_roster(Deed.CANCEL, local, foreign, "", done)

    def add_contact(
        self, local: JID, foreign: JID, name: str, done: Callable[[RosterAnswer], None]
    ) -> None:
        """Put a foreign user on a local one's roster, under a name if it is not ""."""
        self._change_roster(Deed.ADD, local, foreign, name, done)

    def _change_roster(
        self, deed: Deed, local: JID, foreign: JID, name: str, done: Callable[[RosterAnswer], None]
    ) -> None:
        """Have a roster changed, here or by the holder of the link."""
        home = self._home(local)
        if home in self.held or not home:
            self.links.change_roster(deed, local, foreign, name, done)
        elif home not in self.announced:
            done(unavailable("no node holds a link to the home server"))
        else:
            silent = RosterAnswer(RosterOutcome.UNSURE, "the node with the home link is silent")
            number = self._await(done, _ROSTER, silent)
            words = (deed.value, local.text, foreign.text, name)
            if not self._post(home, Roster(*words, self._node, number)):
                self._told(number, RosterAnswer(RosterOutcome.UNSURE, _TOO_MUCH))

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
        elif isinstance(errand, Exists):
            self._told(errand.number, Existence(errand.value))
        elif isinstance(errand, Roster):
            node, number = errand.node, errand.number
            self.links.change_roster(
                Deed(errand.deed),
                JID.parse(errand.user),
                JID.parse(errand.contact),
                errand.name,
                lambda told: self._answer(node, RosterTold(number, told.outcome.value, told.text)),
            )
        else:
            self._told(errand.number, RosterAnswer(RosterOutcome(errand.outcome), errand.text))

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

    def seen(self, homes: Iterable[str], rosters: Iterable[str] = ()) -> None:
        """These homes' links are up now, at whichever node.

        :param rosters: local domains whose users' rosters the holders may write.
        """
        self.announced, self.rosters = frozenset(homes), frozenset(rosters)
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
        limit = _LATE_LIMIT - (0 if stanza.kind == "message" else _LATE_TEXTS)
        if not moving or (late is not None and len(late) >= limit):
            return False
        if late is None:
            late = self._late[link] = deque()
            self._timers.after(_MOVING, self._go, link)
        late.append(call)
        return True

    def _await(self, done: Callable[[Any], object], patience: float, silent: object) -> str:
        """Wait for another node's answer; returns the number that it refers to.

        :param silent: what stands for it when none has come.
        """
        number = self._ids.token(8)
        timer = self._timers.after(patience, self._told, number, silent)
        self._open[number] = (done, timer)
        return number

    def _told(self, number: str, answer: object) -> None:
        found = self._open.pop(number, None)
        if found is not None:
            found[1].cancel()
            found[0](answer)

    def _post(self, home: str, errand: Errand) -> bool:
        letter = msgspec.msgpack.encode(errand)
        presence = isinstance(errand, ToHome) and errand.kind == "presence"
        return self.post.send(link_pair(home), letter, presence=presence)

    def _home(self, user: JID) -> str:
        home = self._homes.get(user.domain)
        return "" if home is None else home.name


def _errand(stanza: OutStanza, number: str = "", node: str = "") -> ToHome:
    to, sender = stanza.to.text, stanza.from_.text
    return ToHome(stanza.kind, to, sender, stanza.id, stanza.xml, number, node)
