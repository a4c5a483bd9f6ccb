"""The gateway as a member of a cluster: what it owns comes, goes, and is found by others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, DeferredList, inlineCallbacks
from twisted.internet.task import deferLater

from impfed.cluster.api import ClusterUser
from impfed.cluster.mailbox import GO_ON_AT, PAUSE_AT
from impfed.cluster.ownership import Leaves, Pair, Placement
from impfed.cluster.service import ClusterService
from impfed.cluster.settling import Settling
from impfed.config.model import HomeConfig
from impfed.core.log import EventLog
from impfed.core.timers import Timer
from impfed.gateway.cluster_home import ClusterHome, Errand
from impfed.gateway.cluster_links import LinkKeeper
from impfed.gateway.cluster_questions import Question, Questions, Reply
from impfed.gateway.cluster_relay import PlacedRelay, RelayMoves
from impfed.gateway.cluster_search import Search
from impfed.gateway.commons import Commons, Keeper
from impfed.gateway.gateway import Gateway
from impfed.gateway.im_moves import ImMoves
from impfed.gateway.presence_moves import PresenceMoves
from impfed.gateway.rewriting import write_all
from impfed.store.api import StoreError
from impfed.store.records import (
    HeldTextRecord,
    InboundSubscriptionRecord,
    OutboundSubscriptionRecord,
    OutboxRecord,
    Record,
    RelayedTextRecord,
    SessionRecord,
)
from impfed.store.shared import SharedStore
from impfed.transport.timers import ReactorTimers
from impfed.xmpp.jid import JID
from impfed.xmpp.stanza import OutStanza, Stanza, answerable, error_reply, presence, read_stanza

log = EventLog("impfed.cluster")

#: Seconds between two looks at how things stand.
_LOOK = 0.5
#: Seconds from seeing the cluster again to asking for what was missed.
_CATCH_UP = 1.0
#: Seconds that a text on its way may take when its pair goes to another node.
_FINISH = 35.0
#: Seconds in which all nodes hear of a change of what belongs to all.
_HEARD = 1.0
#: Seconds between one node and the next that look what the store has lost of what belongs to all.
_FILL_APART = 5.0


class FromHome(msgspec.Struct, tag="from-home", gc=False):
    """A stanza of a local user, on its way to the node of its pair.

    :ivar handed: see :class:`~impfed.xmpp.stanza.Stanza`.
    """

    xml: str
    handed: str = ""


def _pair(stanza: Stanza) -> Pair:
    return stanza.from_.bare.text, stanza.to.bare.text


_LETTER = msgspec.msgpack.Decoder(FromHome | Errand | Question | Reply)


class Clustered(ClusterUser):
    """Keeps the gateway's sessions and subscriptions where the cluster places them.

    :param home: the home links as the gateway sees them.
    :param questions: asks the other nodes on behalf of operators.
    :param keepers: who has records in memory that belong to all nodes.
    :ivar listens: whether everything is loaded, and the listeners stand.
    :ivar search: see :meth:`impfed.gateway.cluster_search.Search.search`.
    """

    def __init__(
        self,
        cluster: ClusterService,
        home: ClusterHome,
        homes: Sequence[HomeConfig],
        gateway: Gateway,
        im: ImMoves,
        presence: PresenceMoves,
        timers: ReactorTimers,
        reactor: Any,
        store: SharedStore,
        questions: Questions,
        keepers: Sequence[Keeper] = (),
    ) -> None:
        self._cluster = cluster
        self._home = home
        self._homes = homes
        self._gateway = gateway
        self._im = im
        self._presence = presence
        self._timers = timers
        self._reactor = reactor
        self._store = store
        self._write = store.write
        self._commons = Commons(store, keepers)
        self._questions = questions
        self._links = LinkKeeper(cluster, home, homes, timers, reactor, self._came_up)
        self._timer: Timer | None = None
        self._paused = self.listens = False
        self._listening: frozenset[str] = frozenset()
        self._lent = False  # whether pairs of nodes that did not act may be served here
        self._relay: PlacedRelay | None = None
        self._letters = Settling()  # those that are not in a mailbox yet
        self._pressed = False  # whether home servers are not read, for so many are not yet
        self._search = Search(cluster, self._adopt_silent)
        self.search = self._search.search
        cluster.user = self
        home.post = cluster

    # -- life --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Look after the home links from now on, and let the others know that we listen."""
        self.listens = True
        self._cluster.tell()
        self._look()

    def stop(self) -> None:
        """Look after nothing any more."""
        if self._timer is not None:
            self._timer.cancel()

    def place(self, relay: Any, moves: RelayMoves) -> PlacedRelay:
        """Return what the home links have for their relay: it places what this node's own would take."""
        self._relay = PlacedRelay(relay, moves, self._relayed)
        return self._relay

    def info(self) -> bytes:
        """What this node tells the others: which home links are up here; b"" until it listens."""
        return self._links.info() if self.listens else b""

    def _look(self) -> None:
        self._timer = self._timers.after(_LOOK, self._look)
        self._links.look()
        self._press()
        self._give_back()
        if self._cluster.drained:
            # Of a node that had not heard yet that we drain.
            finished = self._finish_texts(lambda pair: self.elsewhere(*map(JID.parse, pair)))
            finished.addErrback(lambda failure: failure.trap(StoreError))

    def _give_back(self) -> None:
        """Give nodes that listen now, or beat again, what has been served here until they did."""
        listening = frozenset(row.name for row in self._cluster.nodes if row.info)
        self._lent = self._lent or not listening.issubset(self._listening)
        self._listening = listening
        placement = self._cluster.placement
        silent = any(map(self._cluster.suspected, placement.now.names))
        if self._lent and placement.settled and not silent and self._cluster.may_act:
            self._lent = False
            self._cluster.give_back()

    def _came_up(self, domains: frozenset[str]) -> None:
        """A home server with these domains is reachable, from whichever node."""
        self._presence.link_up(domains)
        if self._relay is not None:
            self._relay.relay.link_up(domains)

    # -- the home links' user ----------------------------------------------------------------------

    def stanza_arrived(self, stanza: Stanza, link: object) -> None:
        """A home server sent a stanza for a foreign user: it goes to the node of the pair."""
        if self._stays(pair := _pair(stanza)):
            self._gateway.stanza_arrived(stanza, link)
        else:
            self._send_on(pair, stanza)

    def subscribe(self, local: JID, foreign: Sequence[JID]) -> None:
        """Have a local user ask to see foreign ones, each at the node of the pair.

        A moment later, for that node has to have heard what is known of the pair already.
        """
        self._timers.after(_HEARD, self._subscribe, local, foreign)

    def _subscribe(self, local: JID, foreign: Sequence[JID]) -> None:
        for each in foreign:
            self.stanza_arrived(read_stanza(presence(each, local, type="subscribe").xml), None)

    def _relayed(self, stanza: Stanza) -> None:
        """The same for a foreign user who is reached over XMPP."""
        assert self._relay is not None
        if self._stays(pair := _pair(stanza)):
            self._relay.relay.from_home(stanza)
        else:
            self._send_on(pair, stanza)

    def _stays(self, pair: Pair) -> bool:
        placement = self._cluster.placement
        return placement.settled and placement.mine(pair) and self._cluster.may_act

    def _send_on(self, pair: Pair, stanza: Stanza) -> None:
        text = stanza.kind == "message" and stanza.type != "error"
        if text and self._cluster.stuck(pair):
            # It would lie here for as long as that lasts, and its sender would not know.
            self._refuse(stanza, "the gateway cannot store it now")
            return
        letter = msgspec.msgpack.encode(FromHome(stanza.to_xml(), stanza.handed))
        posted = self._letters.begin()
        taken = self._cluster.send(pair, letter, posted, presence=not text)
        self._press()
        if taken:
            return
        posted(None)
        if text:
            self._refuse(stanza, "too much waits for another node of the cluster")

    def _press(self) -> None:
        """Read no more from home servers while too many letters wait: none is dropped for want of room."""
        waiting = self._cluster.post.waiting
        if self._pressed and waiting <= GO_ON_AT:
            self._pressed = False
            self._home.resume()
        elif not self._pressed and waiting >= PAUSE_AT:
            self._pressed = True
            self._home.pause()
            log.info(
                "pressed", "home servers are not read: {waiting} letters wait", waiting=waiting
            )

    def _refuse(self, stanza: Stanza, words: str) -> None:
        self._home.links.send(error_reply(stanza, "resource-constraint", "wait", words))

    def hand_on(self, stanza: OutStanza) -> None:
        """Bring a stanza for a foreign user, which this node itself has made, to the node of its pair."""
        found = read_stanza(stanza.xml)
        self._send_on(_pair(found), found)

    def settle(self, done: Callable[[], None]) -> None:
        """Call when what home servers have sent so far would outlive this process."""
        self._letters.wait(lambda: self._write([], lambda _: done()))

    def link_up(self, link: Any) -> None:
        """A home link is up; the other nodes hear it with the next heartbeat."""
        self._links.came_up(link)

    def link_down(self, link: Any, reason: str) -> None:
        """A home link is down."""
        self._links.up.pop(link.home.name, None)
        self._gateway.link_down(link, reason)

    # -- what the cluster wants --------------------------------------------------------------------

    def adopt(self, records: Sequence[Record]) -> None:
        """Serve records that are ours now."""
        kinds: dict[type[Record], list[Any]] = {}
        for record in records:
            kinds.setdefault(type(record), []).append(record)
        self._presence.adopt(
            kinds.get(InboundSubscriptionRecord, []), kinds.get(OutboundSubscriptionRecord, [])
        )
        self._im.adopt(
            kinds.get(SessionRecord, []),
            kinds.get(OutboxRecord, []),
            kinds.get(HeldTextRecord, []),
        )
        if self._relay is not None:
            self._relay.adopt(kinds.get(RelayedTextRecord, []))

    def _adopt_silent(self, records: Sequence[Record]) -> None:
        """Serve what a silent node had until it is dead, or beats again and gets it back."""
        placement = self._cluster.placement
        self._lent = self._lent or not all(placement.mine(record.pair) for record in records)
        self.adopt(records)

    @inlineCallbacks
    def release(self, placement: Placement) -> Any:
        """Give away what belongs to other nodes now, after what is under way for it."""
        yield self._links.release(placement)

        def leaves(pair: Pair) -> str:
            # As it is when it is asked: what is under way can take longer than a shape of the cluster lasts.
            owner = self._cluster.placement.owner(pair)
            return "" if owner == self._cluster.name else owner

        yield self._release_texts(leaves)
        for kind, leaving in (
            (InboundSubscriptionRecord, self._presence.watchers_leaving),
            (OutboundSubscriptionRecord, self._presence.contacts_leaving),
        ):
            given = leaving(leaves)
            for found in given.values():
                for forget in found.values():
                    forget()
            yield self._give(kind, {owner: list(found) for owner, found in given.items()})

    @inlineCallbacks
    def _release_texts(self, leaves: Leaves) -> Any:
        written: Deferred[None] = Deferred()
        # Texts that are being written down belong into their sessions first, to keep the order.
        self._write([], lambda _: written.callback(None))
        yield written
        if self._relay is not None:
            yield self._give(RelayedTextRecord, self._relay.moves.surrender(leaves))
        yield self._finish_texts(leaves)

    @inlineCallbacks
    def _finish_texts(self, leaves: Leaves) -> Any:
        """Give texts away as soon as none before them is under way, or has been for too long."""
        end = self._timers.seconds() + _FINISH
        while self._im.busy(leaves):
            late = self._timers.seconds() >= end
            surrendered = self._im.surrender(leaves, late=late)
            # All at once: who asks for a session that is served here no longer has to wait for it, or
            # it would be taken back.  The sessions first: else their texts begin others.
            sessions = {to: each.sessions for to, each in surrendered.items()}
            texts = {to: each.texts for to, each in surrendered.items()}
            generation = self._cluster.placement.generation
            yield self._give(SessionRecord, sessions, generation)
            yield self._give(OutboxRecord, texts, generation)
            if late:
                return
            if self._im.busy(leaves):
                yield deferLater(self._reactor, 0.1)

    @inlineCallbacks
    def _give(
        self, kind: type[Record], keys: dict[str, list[str]], generation: int | None = None
    ) -> Any:
        """Give records to several nodes at once, by the present placement unless one before is named.

        :raises StoreError: when some cannot be given now; the others are.
        """
        if generation is None:
            generation = self._cluster.placement.generation
        gifts = [
            self._search.give(kind, owner, found, generation)
            for owner, found in keys.items()
            if found
        ]
        results = yield DeferredList(gifts, consumeErrors=True)
        for success, result in results:
            if not success:
                result.raiseException()

    def left(self) -> dict[str, int]:
        """Return how many sessions and subscriptions are here, and dialogs that are not over."""
        return {
            "sessions": self._im.count(),
            "subscriptions": self._presence.count(),
            "dialogs": self._gateway.dialogs,
        }

    def pause(self) -> None:
        """The lease is over, or may be: everything asks ``may_act`` before it sends."""
        self._paused = True
        log.warn("paused", "this node acts on nothing until it sees the cluster again")

    def resume(self) -> None:
        """Go on."""
        log.info("resumed", "this node is a member of the cluster")
        if self._paused:
            # Not at once: what has been placed elsewhere meanwhile goes there first.
            self._timers.after(_CATCH_UP, self._catch_up)
        self._paused = False
        self._home.may_act_again()
        # Nobody will tell of letters that were forgotten meanwhile: home servers keep what those brought.
        self._letters = Settling()

    def _catch_up(self) -> None:
        """Ask for what the far side told while it was refused, and tell what changed."""
        if self._cluster.may_act:
            self._presence.resume()
            self._presence.link_up(
                frozenset(domain for home in self._homes for domain in home.domains)
            )

    def drop(self) -> None:
        """Others have taken over everything."""
        self._links.let_go_all()
        self._home.drop()
        self._presence.drop()
        self._im.drop()
        if self._relay is not None:
            self._relay.moves.abandon()

    def lost(self, kind: str, key: str, owner: str) -> None:
        """Another node has taken over one record."""
        log.info(
            "lost", "node {owner} has taken over {kind} {key}", owner=owner, kind=kind, key=key
        )
        if kind in (OutboxRecord.kind, SessionRecord.kind):
            self._im.lost(kind, key)
        else:
            self._presence.lost(kind, key)

    @inlineCallbacks
    def rewrite(self) -> Any:
        """The store has lost writes: write everything again.

        What belongs to all nodes is put in by the first of them that finds it missing.
        """
        yield self._store.repeat()
        relayed = self._relay.moves.kept() if self._relay is not None else ()
        yield write_all(self._store, chain(self._im.kept(), relayed, self._presence.kept()))
        names = sorted(self._cluster.placement.now.names)
        rank = names.index(self._cluster.name) if self._cluster.name in names else len(names)
        its_turn: Deferred[None] = Deferred()
        self._timers.after(_FILL_APART * rank, its_turn.callback, None)
        yield its_turn
        yield self._commons.fill()

    def letter(self, pair: Pair, payload: bytes) -> Deferred[None] | None:
        """Handle a letter; done when what it brought would outlive this process."""
        errand = _LETTER.decode(payload)
        if isinstance(errand, Question | Reply):
            self._questions.letter(errand)
            return None
        if not isinstance(errand, FromHome):
            self._home.letter(errand)
            return None
        stanza = read_stanza(errand.xml)
        stanza.handed = errand.handed
        done: Deferred[None] = Deferred()

        def taken() -> None:
            self._write([], lambda _: done.callback(None))

        relay, domain = self._relay, stanza.to.domain
        if relay is not None and relay.takes(domain):
            relay.relay.from_home(stanza)
            relay.moves.departed(domain, taken)
        else:
            self._gateway.stanza_arrived(stanza, None)
            taken()
        return done

    def undelivered(self, pair: Pair, payload: bytes) -> None:
        """A letter could not be brought to anybody: the sender is told."""
        errand = _LETTER.decode(payload)
        if isinstance(errand, FromHome):
            stanza = read_stanza(errand.xml)
            if answerable(stanza):
                words = "no node that may take it is up"
                self._home.send(error_reply(stanza, "remote-server-timeout", "wait", words))

    def changed(self, kind: type[Record], key: str, record: Record | None) -> None:
        """Another node has changed what belongs to all."""
        self._commons.changed(kind, key, record)

    def reload(self) -> Deferred[Any]:
        """Changes may have been missed."""
        return self._commons.reload()

    # -- what SIP asks -----------------------------------------------------------------------------

    def mine(self, local: JID, foreign: JID) -> bool:
        """Whether a pair stays with this node, as far as it knows now."""
        return self._cluster.owner((local.text, foreign.text)) in ("", self._cluster.name)

    def elsewhere(self, local: JID, foreign: JID) -> str:
        """Return the live node of a pair; "" when it is this one, or nobody's."""
        owner = self._cluster.owner((local.bare.text, foreign.bare.text))
        if owner in ("", self._cluster.name):
            return ""
        silent = self._cluster.sees_store and self._cluster.suspected(owner)
        # One that has just joined may not listen yet: its requests are served here until it does.
        return "" if silent or not self._listens(owner) else owner

    def _listens(self, node: str) -> bool:
        return any(row.name == node and row.info for row in self._cluster.nodes)
