"""A relay between a home server and a foreign domain, both played by the test."""

from __future__ import annotations

from typing import Any

from msgspec import structs

from impfed.config.model import ImConfig, PresenceConfig
from impfed.core.ids import IdSource
from impfed.core.metrics import Metrics
from impfed.gateway.authorization import Authorizations
from impfed.interwork.rewrite import XMPP_KINDS, XmppKind
from impfed.policy.federation import DomainException, XmppPolicy
from impfed.policy.limits import NewSubscriptions
from impfed.policy.users import UserPolicies
from impfed.relay.ledger import TextLedger
from impfed.relay.presence import PresenceRewriter
from impfed.relay.probe import XmppProbe
from impfed.relay.relay import Lists, Relay
from impfed.store.api import Delete, Enter
from impfed.store.records import LedgerEntry, RelayedTextRecord
from impfed.transport.home import HomeLinks
from impfed.transport.timers import ReactorTimers
from impfed.xmpp.reader import StanzaReader
from impfed.xmpp.s2s_parts import NS_SERVER
from impfed.xmpp.stanza import OutStanza, Stanza
from tests.transport.home_case import HomeCase

KINDS = {"sametime.example": "sametime", "webex.example": "webex"}
_STREAM = "http://etherx.jabber.org/streams"


class Streams:
    """S2S: keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.stanzas: list[OutStanza] = []

    def send(self, stanza: OutStanza) -> None:
        self.sent.append(stanza.xml)
        self.stanzas.append(stanza)

    def take(self) -> list[str]:
        sent, self.sent = self.sent, []
        return sent


class Ledger:
    """A store that keeps nothing but the ledger's lines, and texts that wait."""

    backlog = 0

    def __init__(self) -> None:
        self.entries: dict[str, LedgerEntry] = {}
        self.error: Exception | None = None
        self.texts: dict[str, RelayedTextRecord] = {}

    def write(self, changes: Any, done: Any = None, *, within: float = 0.0) -> None:
        for change in changes:
            if isinstance(change, Enter):
                self.entries[change.entry.id] = structs.replace(change.entry)
            elif isinstance(change, Delete):
                self.texts.pop(change.key, None)
            elif isinstance(change.record, RelayedTextRecord):
                self.texts[change.record.key] = change.record
        if done is not None:
            done(self.error)

    @property
    def last(self) -> LedgerEntry:
        return list(self.entries.values())[-1]


def read(xml: str) -> Stanza:
    """Return a stanza of an S2S stream."""
    reader = StanzaReader(NS_SERVER)
    reader.feed(f"<stream:stream xmlns='{NS_SERVER}' xmlns:stream='{_STREAM}'>".encode())
    (item,) = reader.feed(xml.encode())
    assert isinstance(item, Stanza)
    return item


class RelayCase(HomeCase):
    """A relay with one home link that the test plays."""

    allow = True
    blocked_texts = "refuse"
    presence = PresenceConfig()
    exceptions: tuple[DomainException, ...] = (DomainException("*.spam.example"),)

    def setUp(self) -> None:
        super().setUp()
        self.home: HomeLinks = self.links
        policy = XmppPolicy(
            self.allow, self.exceptions, ["home.example", "second.example"], ["lync.example"]
        )
        self.store = Ledger()
        self.answers = Authorizations(self.store, lambda: 0.0)
        self.policies = UserPolicies(self.store, lambda: 0.0)
        self.streams = Streams()
        self.relay_metrics = Metrics()
        kinds = {name: XmppKind.load(name) for name in XMPP_KINDS}
        self.probe = XmppProbe(IdSource())
        self.relay = Relay(
            self.home,
            policy,
            frozenset({"home.example", "second.example"}),
            frozenset({"lync.example"}) | self.home.own_domains,
            Lists(self.policies, self.answers, NewSubscriptions(self.presence.new_per_minute)),
            self.presence,
            PresenceRewriter(kinds.values(), lambda domain: kinds[KINDS.get(domain, "xmpp")]),
            self.probe,
            self.relay_metrics,
            ReactorTimers(self.reactor),
            ImConfig(blocked_texts=self.blocked_texts),
            TextLedger(self.store, "n1", IdSource(), self.reactor.seconds, self.relay_metrics),
            IdSource(),
        )
        self.relay.streams = self.streams
        self.home.relay = self.relay

    # -- the foreign server's part -------------------------------------------------------------

    def far(self, xml: str) -> str:
        """Speak as the foreign server; return what the home server is written."""
        self.relay.stanza_arrived(read(xml), object())
        return self.turn()

    def pass_unconfirmed(self, seconds: float) -> None:
        """Let time pass in which the home server confirms nothing, but is heard, so that the link stands."""
        end = self.reactor.seconds() + seconds
        while self.reactor.seconds() < end:
            self.reactor.advance(5)
            self.say(" ")

    def local(self, xml: str) -> list[str]:
        """Speak as the home server; return what goes to foreign servers."""
        self.say(xml)
        return self.streams.take()
